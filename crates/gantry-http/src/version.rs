//! The version that a client names by S3's `versionId`.

use gantry_proto::{Key, ObjectInfo, Pin, Span};
use gantry_store::{Error, Opened, Store};

use crate::target::Query;

/// The version of objects that were stored without versions.
const NULL: &str = "null";

/// Returns the version that a query names.
pub(crate) fn pin(query: &Query) -> Pin {
    let version = query.value("versionId").filter(|version| !version.is_empty());
    Pin { if_match: None, version_id: version.map(str::to_owned) }
}

/// Opens an object, as the store does, in a version that may be `null`.
pub(crate) async fn open(store: &dyn Store, key: &Key, pin: &Pin, span: Span) -> Result<Opened, Error> {
    match (store.open(key, pin, span).await, unversioned(pin)) {
        (Err(missing @ Error::NotFound(_)), Some(pin)) => {
            let opened = store.open(key, &pin, span).await?;
            if opened.object.version_id.is_none() { Ok(opened) } else { Err(missing) }
        }
        (opened, _) => opened,
    }
}

/// Describes an object, as the store does, in a version that may be `null`.
pub(crate) async fn stat(store: &dyn Store, key: &Key, pin: &Pin) -> Result<ObjectInfo, Error> {
    match (store.stat(key, pin).await, unversioned(pin)) {
        (Err(missing @ Error::NotFound(_)), Some(pin)) => {
            let object = store.stat(key, &pin).await?;
            if object.version_id.is_none() { Ok(object) } else { Err(missing) }
        }
        (described, _) => described,
    }
}

/// Returns the pin of a store without versions, which does not know the name `null`.
fn unversioned(pin: &Pin) -> Option<Pin> {
    (pin.version_id.as_deref() == Some(NULL)).then(|| Pin { version_id: None, ..pin.clone() })
}
