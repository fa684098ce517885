//! The messages in which stores announce objects, in the forms of S3 and of SeaweedFS.
//!
//! | form | published by | the key is |
//! |---|---|---|
//! | `{"Records": [{"eventName", "s3": {"bucket", "object"}}]}` | AWS, `MinIO` and most S3 servers | form-encoded |
//! | the same as the text `Message` of `{"Type": "Notification"}` | AWS SNS | form-encoded |
//! | `{"detail-type": "Object Created", "detail": {"bucket", "object"}}` | AWS `EventBridge` | plain |
//! | `{"key": "/buckets/BUCKET/KEY", "event_type", "message"}` | `SeaweedFS` webhooks | plain |
//!
//! Sources: the pages "Event message structure" and "`EventBridge` event message structure" of S3's user guide,
//! `MinIO`'s `cmd/event-notification.go`, `SeaweedFS`'s `weed/notification/webhook/http.go`.

use percent_encoding::percent_decode;
use serde::Deserialize;
use serde_json::Value;

/// The largest message that is read, in bytes. One record takes about 1 KiB, and S3 sends one per message.
const MESSAGE_MAX_BYTES: usize = 1024 * 1024;

/// Where `SeaweedFS` keeps buckets, and in them the parts of unfinished uploads.
const BUCKETS: &str = "/buckets/";
const UPLOADS: &str = ".uploads/";

/// An object that was created or replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) size: Option<u64>,
    pub(super) etag: Option<String>,
    /// The name of the event, such as `ObjectCreated:Put`.
    pub(super) event: String,
}

/// Returns the objects that a message announces. Messages about anything else announce none.
///
/// # Errors
/// What is wrong with the message.
pub(super) fn read(payload: &[u8]) -> Result<Vec<Announced>, String> {
    if payload.len() > MESSAGE_MAX_BYTES {
        return Err(format!("it has {} bytes, and at most {MESSAGE_MAX_BYTES} are read", payload.len()));
    }
    let message: Value = serde_json::from_slice(payload).map_err(|error| format!("it is not JSON: {error}"))?;
    let is_wrapped = message.get("Type").is_some_and(|kind| kind == "Notification");
    let Some(inner) = message.get("Message").and_then(Value::as_str).filter(|_| is_wrapped) else {
        return read_event(message);
    };
    let inner = serde_json::from_str(inner).map_err(|error| format!("its Message is not JSON: {error}"))?;
    read_event(inner)
}

fn read_event(message: Value) -> Result<Vec<Announced>, String> {
    let is = |name: &str| message.get(name).is_some();
    if is("Records") {
        let Records { records } = parse(message)?;
        return records.into_iter().filter_map(|record| record.announced().transpose()).collect();
    }
    if is("detail-type") {
        let EventBridge { detail_type, detail } = parse(message)?;
        return if detail_type == "Object Created" {
            Ok(vec![parse::<Detail>(detail)?.announced(detail_type)])
        } else {
            Ok(Vec::new())
        };
    }
    if is("event_type") {
        return parse::<SeaweedFs>(message).map(|event| event.announced().into_iter().collect());
    }
    // AWS sends it once for each new configuration.
    if message.get("Event").is_some_and(|event| event == "s3:TestEvent") {
        return Ok(Vec::new());
    }
    Err("it is not an event of a store: it has none of the members Records, detail-type and event_type".to_owned())
}

fn parse<T: serde::de::DeserializeOwned>(message: Value) -> Result<T, String> {
    serde_json::from_value(message).map_err(|error| format!("it is not a valid event: {error}"))
}

#[derive(Deserialize)]
struct Records {
    #[serde(rename = "Records")]
    records: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    event_name: String,
    /// Absent in records of other services.
    s3: Option<S3>,
}

#[derive(Deserialize)]
struct S3 {
    bucket: Bucket,
    object: Object,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
struct Object {
    key: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default, alias = "eTag")]
    etag: Option<String>,
}

impl Record {
    fn announced(self) -> Result<Option<Announced>, String> {
        // MinIO writes the prefix that S3's configuration has, and S3's messages do not.
        let event = self.event_name.strip_prefix("s3:").unwrap_or(&self.event_name).to_owned();
        let Some(S3 { bucket, object }) = self.s3.filter(|_| event.starts_with("ObjectCreated:")) else {
            return Ok(None);
        };
        let key = form_decoded(&object.key).ok_or_else(|| format!("the key {:?} is not UTF-8", object.key))?;
        Ok(Some(Announced { bucket: bucket.name, key, size: object.size, etag: object.etag, event }))
    }
}

/// Decodes `+` as a space, and `%XX`. `None` if the result is not UTF-8.
fn form_decoded(text: &str) -> Option<String> {
    let text = text.replace('+', " ");
    percent_decode(text.as_bytes()).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct EventBridge {
    detail_type: String,
    detail: Value,
}

#[derive(Deserialize)]
struct Detail {
    bucket: Bucket,
    object: Object,
}

impl Detail {
    fn announced(self, event: String) -> Announced {
        let Object { key, size, etag } = self.object;
        Announced { bucket: self.bucket.name, key, size, etag, event }
    }
}

#[derive(Deserialize)]
struct SeaweedFs {
    key: String,
    event_type: String,
    #[serde(default)]
    message: Change,
}

#[derive(Default, Deserialize)]
struct Change {
    #[serde(default)]
    new_entry: Option<Entry>,
    #[serde(default)]
    new_parent_path: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    name: String,
    #[serde(default)]
    is_directory: bool,
    #[serde(default)]
    attributes: Attributes,
}

#[derive(Default, Deserialize)]
struct Attributes {
    #[serde(default)]
    file_size: Option<u64>,
}

impl SeaweedFs {
    fn announced(self) -> Option<Announced> {
        let entry = self.message.new_entry.filter(|entry| !entry.is_directory)?;
        let path = match self.event_type.as_str() {
            "create" | "update" => self.key,
            "rename" => format!("{}/{}", self.message.new_parent_path, entry.name),
            _ => return None,
        };

        let (bucket, key) = path.strip_prefix(BUCKETS)?.split_once('/')?;
        if key.starts_with(UPLOADS) {
            return None;
        }
        Some(Announced {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            size: entry.attributes.file_size,
            etag: None,
            event: self.event_type,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys(message: &Value) -> Vec<String> {
        let announced = read(message.to_string().as_bytes()).unwrap();
        announced.into_iter().map(|object| format!("{}/{}", object.bucket, object.key)).collect()
    }

    fn record(event: &str, key: &str) -> Value {
        json!({"eventName": event, "s3": {"bucket": {"name": "b"}, "object": {"key": key, "size": 3, "eTag": "e"}}})
    }

    #[test]
    fn records_of_created_objects_announce_them() {
        let message = json!({"EventName": "s3:ObjectCreated:Put", "Key": "b/a", "Records": [
            record("s3:ObjectCreated:Put", "photos%2Fmy+summer%282024%29.jpg"),
            record("ObjectCreated:CompleteMultipartUpload", "%C3%BC%2Bx"),
            record("s3:ObjectRemoved:Delete", "gone"),
            {"eventName": "Other"},
        ]});
        assert_eq!(keys(&message), ["b/photos/my summer(2024).jpg", "b/ü+x"]);

        let first = read(message.to_string().as_bytes()).unwrap().remove(0);
        assert_eq!(
            (first.size, first.etag.as_deref(), first.event.as_str()),
            (Some(3), Some("e"), "ObjectCreated:Put")
        );
    }

    #[test]
    fn sns_wraps_the_same_records() {
        let inner = json!({"Records": [record("ObjectCreated:Put", "a+b")]}).to_string();
        assert_eq!(keys(&json!({"Type": "Notification", "Message": inner})), ["b/a b"]);
        assert!(read(br#"{"Type":"Notification","Message":"text"}"#).is_err());
    }

    #[test]
    fn keys_of_event_bridge_are_plain() {
        let event = |kind: &str| {
            json!({"detail-type": kind, "source": "aws.s3",
                "detail": {"bucket": {"name": "b"}, "object": {"key": "a+b%20c", "size": 1, "etag": "e"}}})
        };
        assert_eq!(keys(&event("Object Created")), ["b/a+b%20c"]);
        assert!(keys(&event("Object Deleted")).is_empty());
    }

    #[test]
    fn seaweedfs_announces_files_in_buckets() {
        let event = |kind: &str, key: &str, is_directory: bool| {
            json!({"key": key, "event_type": kind, "message": {"new_entry": {"name": "n", "is_directory": is_directory,
                "attributes": {"file_size": 4}}, "new_parent_path": "/buckets/b/to"}})
        };
        assert_eq!(keys(&event("create", "/buckets/b/x/y+z", false)), ["b/x/y+z"]);
        assert_eq!(keys(&event("update", "/buckets/b/x", false)), ["b/x"]);
        assert_eq!(keys(&event("rename", "/buckets/b/old", false)), ["b/to/n"]);
        for (kind, key, is_directory) in [
            ("create", "/buckets/b/x", true),
            ("create", "/etc/x", false),
            ("create", "/buckets/b", false),
            ("create", "/buckets/b/.uploads/1/part", false),
            ("delete", "/buckets/b/x", false),
        ] {
            assert!(keys(&event(kind, key, is_directory)).is_empty(), "{kind} {key}");
        }
        assert!(keys(&json!({"key": "/buckets/b/x", "event_type": "delete", "message": {}})).is_empty());
    }

    #[test]
    fn malformed_messages_are_errors_and_tests_are_not() {
        assert!(keys(&json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"})).is_empty());
        for message in [
            &b""[..],
            b"text",
            b"{}",
            b"[]",
            b"{\"Records\":7}",
            b"{\"Records\":[{\"s3\":{}}]}",
            br#"{"Records":[{"eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"b"},"object":{"key":"%FF"}}}]}"#,
            br#"{"Records":[{"eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"b"},"object":{"key":"a","size":-1}}}]}"#,
            b"{\"event_type\":\"create\"}",
            b"{\"detail-type\":\"Object Created\",\"detail\":{}}",
        ] {
            assert!(read(message).is_err(), "{}", String::from_utf8_lossy(message));
        }
        assert!(read(&vec![b' '; MESSAGE_MAX_BYTES + 1]).is_err());
    }
}
