//! Pages of a listing and descriptions of objects, as a consumer receives them.

use crate::gantry::{ListPage, ObjectInfo, message, printable};

pub(crate) fn run(data: &[u8]) {
    if let Ok(page) = serde_json::from_slice::<ListPage>(data) {
        let again: ListPage = serde_json::from_slice(&message::json(&page)).expect("it was one");
        assert_eq!(again, page);
        for entry in &page.entries {
            assert!(printable::name(&entry.key).chars().all(printable::is_printable));
        }
    }
    if let Ok(object) = serde_json::from_slice::<ObjectInfo>(data) {
        assert!(!object.key.as_str().is_empty() && object.key.as_str().len() <= 1024);
        let again: ObjectInfo = serde_json::from_slice(&message::json(&object)).expect("it was one");
        assert_eq!(again, object);
    }
}
