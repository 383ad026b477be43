//! Reads a JSON object key by key, and refuses keys that were not read: each could change the model.

use serde_json::{Map, Value};

use super::InteropError;

/// An object of a configuration.
pub(super) struct Keys {
    /// Its name, in errors.
    name: &'static str,
    values: Map<String, Value>,
}

impl Keys {
    pub(super) fn new(name: &'static str, value: Value) -> Result<Self, InteropError> {
        match value {
            Value::Object(values) => Ok(Self { name, values }),
            other => {
                Err(InteropError::Key { key: name.to_owned(), problem: format!("is {other}, expected an object") })
            }
        }
    }

    pub(super) fn error(&self, key: &str, problem: String) -> InteropError {
        let key = if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
        InteropError::Key { key, problem }
    }

    /// The value, unless it is absent or null.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.values.remove(key).filter(|value| !value.is_null())
    }

    /// The object at `key`.
    pub(super) fn object(&mut self, key: &'static str) -> Result<Self, InteropError> {
        match self.take(key) {
            Some(value) => Self::new(key, value),
            None => Err(self.error(key, "is missing".to_owned())),
        }
    }

    fn read<T>(
        &mut self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, InteropError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match read(&value) {
            Some(found) => Ok(Some(found)),
            None => Err(self.error(key, format!("is {value}, expected {expected}"))),
        }
    }

    pub(super) fn size(&mut self, key: &str, default: usize) -> Result<usize, InteropError> {
        Ok(self.read(key, "a size", as_size)?.unwrap_or(default))
    }

    /// A size that must be there, and is not 0.
    pub(super) fn required_size(&mut self, key: &str) -> Result<usize, InteropError> {
        match self.read(key, "a size", as_size)? {
            None => Err(self.error(key, "is missing".to_owned())),
            Some(size) => self.above_zero(key, size),
        }
    }

    /// `value`, which was read from or computed with `key`, unless it is 0.
    pub(super) fn above_zero(&self, key: &str, value: usize) -> Result<usize, InteropError> {
        match value {
            0 => Err(self.error(key, "is too small".to_owned())),
            value => Ok(value),
        }
    }

    /// A size, or a list of two that are the same.
    pub(super) fn square(&mut self, key: &str, default: usize) -> Result<usize, InteropError> {
        if let Some(Value::Array(sides)) = self.values.get(key) {
            match sides.as_slice() {
                [height, width] if height == width => {
                    let side = height.clone();
                    self.values.insert(key.to_owned(), side);
                }
                _ => return Err(self.error(key, "is not square, and flipk's images and patches are".to_owned())),
            }
        }
        self.size(key, default)
    }

    pub(super) fn flag(&mut self, key: &str) -> Result<bool, InteropError> {
        self.flag_or(key, false)
    }

    pub(super) fn flag_or(&mut self, key: &str, default: bool) -> Result<bool, InteropError> {
        Ok(self.read(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    pub(super) fn number(&mut self, key: &str) -> Result<Option<f64>, InteropError> {
        self.read(key, "a number", Value::as_f64)
    }

    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, InteropError> {
        self.read(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// The text, or `default` if the key is absent. Null is the empty text: both are false in Python.
    pub(super) fn text_or(&mut self, key: &str, default: &str) -> Result<String, InteropError> {
        let absent = if self.values.contains_key(key) { "" } else { default };
        Ok(self.text(key)?.unwrap_or_else(|| absent.to_owned()))
    }

    /// All that is left.
    pub(super) fn into_values(self) -> Map<String, Value> {
        self.values
    }

    /// Keys that do not change the model.
    pub(super) fn ignore(&mut self, keys: &[&str]) {
        keys.iter().for_each(|key| drop(self.values.remove(*key)));
    }

    /// The value of `key`, which must be one of these; the first if it is absent.
    pub(super) fn one_of<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Result<T, InteropError> {
        let Some(found) = self.text(key)? else { return Ok(choices[0].1) };
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        match choices.iter().find(|(name, _)| *name == found) {
            Some((_, choice)) => Ok(*choice),
            None => Err(self.error(key, format!("is `{found}`; flipk has {}", names.join(", ")))),
        }
    }

    /// Refuses what is left, unless it is switched off.
    pub(super) fn end(self) -> Result<(), InteropError> {
        let off = |value: &Value| matches!(value, Value::Null | Value::Bool(false));
        match self.values.iter().find(|(_, value)| !off(value)) {
            None => Ok(()),
            Some((key, value)) => Err(self.error(key, format!("is {value}, which flipk's models do not have"))),
        }
    }
}

fn as_size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|size| usize::try_from(size).ok())
}
