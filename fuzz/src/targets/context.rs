//! `nats` contexts with any content: read, or rejected without their password in the message.

use std::path::PathBuf;

use crate::gantry::config::{ContextChoice, Sources};
use crate::runtime;

const PASSWORD: &str = "9d1c7f30e4";

pub(crate) fn run(data: &[u8]) {
    let file = &runtime::scratch("context.json");
    std::fs::write(file, data).expect("the folder for temporary files is writable");
    load(ContextChoice::Named(file.display().to_string()), file);
    let name = String::from_utf8_lossy(data).into_owned();
    load(ContextChoice::Named(name), file);
    let text = String::from_utf8_lossy(data);
    let object = serde_json::json!({ "url": text, "user": text, "password": PASSWORD, "creds": text });
    std::fs::write(file, object.to_string()).expect("it is written");
    load(ContextChoice::Named(file.display().to_string()), file);
}

fn load(context: ContextChoice, file: &std::path::Path) {
    let mut sources = Sources::of_environment([("HOME".to_owned(), "/nonexistent".to_owned())]);
    sources.context = context;
    sources.config_home = file.parent().map(PathBuf::from);
    let (config, effective) = sources.read();
    if let Err(error) = config {
        assert!(!error.to_string().contains(PASSWORD), "{error}");
    }
    assert!(effective.iter().all(|line| !line.to_string().contains(PASSWORD)));
}
