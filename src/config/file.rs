//! The configuration file, with the line of every key in it.

use std::fs;
use std::path::Path;

use config::{Map, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Problem;
use super::layer::{Layer, Setting};

/// Reads a TOML file.
pub(super) fn read(path: &Path) -> Result<Layer, Problem> {
    let text = fs::read_to_string(path)
        .map_err(|error| Problem::File { place: path.display().to_string(), reason: error.to_string() })?;
    let file = File { name: path.display().to_string(), text: &text };

    let table = DeTable::parse(&text).map_err(|error| file.syntax_error(&error))?;
    let mut layer = Layer::default();
    file.flatten(&mut layer, &mut Vec::new(), table.get_ref());
    Ok(layer)
}

struct File<'a> {
    name: String,
    text: &'a str,
}

impl File<'_> {
    /// Adds the settings of a table. A table without keys adds nothing, unless it declares a store.
    fn flatten(&self, layer: &mut Layer, path: &mut Vec<String>, table: &DeTable<'_>) {
        for (key, value) in table {
            path.push(key.get_ref().to_string());
            match value.get_ref().as_table() {
                Some(inner) if !inner.is_empty() || path.len() != 2 => self.flatten(layer, path, inner),
                _ => {
                    let origin = format!("{}:{}", self.name, self.line(key));
                    layer.0.push(Setting { path: path.clone(), value: plain(value.get_ref()), origin });
                }
            }
            path.pop();
        }
    }

    fn line<T>(&self, spanned: &Spanned<T>) -> usize {
        self.position(spanned.span().start).0
    }

    /// Returns the line and the column of a byte, both counted from 1.
    fn position(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }

    fn syntax_error(&self, error: &toml::de::Error) -> Problem {
        let place = match error.span() {
            Some(span) => {
                let (line, column) = self.position(span.start);
                format!("{}:{line}:{column}", self.name)
            }
            None => self.name.clone(),
        };
        // The error's `Display` shows the line with a marker. Its last line is the reason.
        let text = error.to_string();
        let reason = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default().to_owned();
        Problem::File { place, reason }
    }
}

/// Converts a value. A value that no key accepts, such as a number out of range, becomes text, which the check then
/// rejects.
fn plain(value: &DeValue<'_>) -> ValueKind {
    match value {
        DeValue::String(text) => ValueKind::from(text.to_string()),
        DeValue::Boolean(value) => ValueKind::from(*value),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => ValueKind::from(number),
            Err(_) => ValueKind::from(number.as_str().to_owned()),
        },
        DeValue::Float(number) => ValueKind::from(number.as_str().parse::<f64>().unwrap_or(f64::NAN)),
        DeValue::Datetime(time) => ValueKind::from(time.to_string()),
        DeValue::Array(values) => {
            ValueKind::Array(values.iter().map(|value| Value::new(None, plain(value.get_ref()))).collect())
        }
        DeValue::Table(table) => {
            let entries =
                table.iter().map(|(key, value)| (key.get_ref().to_string(), Value::new(None, plain(value.get_ref()))));
            ValueKind::Table(entries.collect::<Map<_, _>>())
        }
    }
}
