//! Decodes JSON objects.
//!
//! `serde` alone would also accept an array in place of an object, and take its elements for the members in the order in
//! which the type declares them.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A `T` that was decoded from a JSON object.
struct Object<T>(T);

/// Decodes a body that must be a JSON object.
pub(crate) fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(body).map(|Object(value)| value)
}

/// Decodes a member that must be a JSON object, `null` or absent.
pub(crate) fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let object = Option::<Object<T>>::deserialize(deserializer)?;
    Ok(object.map(|Object(value)| value))
}

/// Decodes a member that must be a JSON object of texts, `null` or absent.
pub(crate) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Decodes a member that must be an array of JSON objects.
pub(crate) fn array<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let objects = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(objects.into_iter().map(|Object(value)| value).collect())
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OnlyMap(PhantomData))
    }
}

/// Rejects everything but a map.
struct OnlyMap<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyMap<T> {
    type Value = Object<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

#[cfg(test)]
mod tests {
    use crate::message::from_json;
    use crate::service::Answer;
    use crate::{End, ListPage, ObjectInfo};

    #[test]
    fn an_array_is_not_taken_for_an_object() {
        from_json::<End>(br#"{"chunks":1,"bytes":2}"#).unwrap();
        from_json::<End>(b"[1,2]").unwrap_err();

        let object = |checksum: &str| {
            from_json::<ObjectInfo>(format!(r#"{{"key":"a","size":1,"etag":"e","checksum":{checksum}}}"#).as_bytes())
        };
        let with_parts = |parts: &str| {
            object(&format!(r#"{{"algorithm":"crc32","kind":"composite","value":"AAAAAA==","parts":[{parts}]}}"#))
        };
        assert_eq!(object("null").unwrap().checksum, None);
        object(r#"["crc32","full_object","AAAAAA=="]"#).unwrap_err();
        with_parts(r#"{"count":1,"size":1}"#).unwrap();
        with_parts("[1,1]").unwrap_err();

        let page = |entry: &str| from_json::<ListPage>(format!(r#"{{"entries":[{entry}],"prefixes":[]}}"#).as_bytes());
        page(r#"{"key":"a","size":1}"#).unwrap();
        page(r#"["a",1]"#).unwrap_err();

        let answer = |endpoint: &str| {
            Answer::parse(
                format!(r#"{{"name":"gantry","metadata":{{"prefix":"gantry"}},"endpoints":[{endpoint}]}}"#).as_bytes(),
            )
        };
        assert!(answer(r#"{"metadata":{}}"#).is_some());
        assert!(answer("[{}]").is_none());
    }
}
