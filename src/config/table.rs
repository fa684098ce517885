//! The description of a configuration key, and the macro that generates the table of keys and the structs of their
//! values from one list.

use std::fmt;

/// The type of a key's value, with its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Text that is never printed.
    Secret,
    /// The path of a file.
    Path,
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Integer {
        /// The smallest valid number.
        min: u64,
        /// The largest valid number.
        max: u64,
    },
    /// Milliseconds. Options of the command line and variables of other programs give them as durations, as in `5s`.
    Millis {
        /// The shortest valid duration, in milliseconds.
        min: u64,
        /// The longest valid duration, in milliseconds.
        max: u64,
    },
    /// A list of texts; separated by commas in the environment.
    List,
    /// One of a few words.
    Choice(&'static [&'static str]),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("text"),
            Self::Secret => f.write_str("secret"),
            Self::Path => f.write_str("path"),
            Self::Switch => f.write_str("true or false"),
            Self::Integer { min, max } | Self::Millis { min, max } => write!(f, "integer, {min} to {max}"),
            Self::List => f.write_str("list of texts"),
            Self::Choice(words) => f.write_str(&words.join(" or ")),
        }
    }
}

/// Checks the text of a value. The error describes a valid one.
pub(super) type Check = fn(&str) -> Result<(), String>;

/// The value of a key that no layer sets.
#[derive(Clone, Copy, Debug)]
enum Default {
    /// No value. The key's meaning explains the effect.
    Unset,
    /// This text.
    Text(&'static str),
    /// The default of the component that the key configures.
    Of(fn() -> String),
}

/// The commands that take an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every command, below the heading "NATS options".
    Nats,
    /// Every command, below the heading "Global options".
    Global,
    /// `gantry serve`.
    Serve,
    /// `gantry gateway`.
    Gateway,
    /// `gantry serve` and `gantry gateway`.
    Pages,
}

/// The command-line option that sets a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The commands that take it.
    pub scope: Scope,
    /// Its name without the dashes.
    pub long: &'static str,
    /// Its one-letter name.
    pub short: Option<char>,
    /// The name of its value in the help; empty for a switch.
    pub value_name: &'static str,
}

/// One configuration key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The dotted name; `NAME` stands for a store's name.
    pub name: &'static str,
    /// One line of documentation.
    pub meaning: &'static str,
    /// The type of its value.
    pub kind: Kind,
    /// The unit of its value; empty if it has none.
    pub unit: &'static str,
    /// The variable of another program that sets the key too. The `GANTRY_…` variable takes precedence.
    pub variable: Option<&'static str>,
    /// A short name of the key's own variable.
    pub alias: Option<&'static str>,
    /// The command-line option.
    pub flag: Option<Flag>,
    /// Further requirements for its value.
    pub(super) check: Option<Check>,
    default: Default,
}

impl Key {
    /// Describes a key of some kind. The macro adds the name and the meaning.
    pub(super) const fn new(kind: Kind) -> Self {
        let unit = if matches!(kind, Kind::Millis { .. }) { "ms" } else { "" };
        Self {
            name: "",
            meaning: "",
            kind,
            unit,
            variable: None,
            alias: None,
            flag: None,
            check: None,
            default: Default::Unset,
        }
    }

    pub(super) const fn named(mut self, name: &'static str, meaning: &'static str) -> Self {
        self.name = name;
        self.meaning = meaning;
        self
    }

    pub(super) const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    /// Sets a default that belongs to no component.
    pub(super) const fn default(mut self, text: &'static str) -> Self {
        self.default = Default::Text(text);
        self
    }

    /// Uses the default of the component that the key configures.
    pub(super) const fn default_of(mut self, default: fn() -> String) -> Self {
        self.default = Default::Of(default);
        self
    }

    pub(super) const fn variable(mut self, name: &'static str) -> Self {
        self.variable = Some(name);
        self
    }

    pub(super) const fn alias(mut self, name: &'static str) -> Self {
        self.alias = Some(name);
        self
    }

    pub(super) const fn check(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }

    pub(super) const fn flag(mut self, scope: Scope, long: &'static str, value_name: &'static str) -> Self {
        self.flag = Some(Flag { scope, long, short: None, value_name });
        self
    }

    pub(super) const fn short(mut self, letter: char) -> Self {
        if let Some(flag) = &mut self.flag {
            flag.short = Some(letter);
        }
        self
    }

    /// Returns the default value, as text.
    #[must_use]
    pub fn default_text(&self) -> Option<String> {
        match self.default {
            Default::Unset => None,
            Default::Text(text) => Some(text.to_owned()),
            Default::Of(default) => Some(default()),
        }
    }

    /// Returns the environment variable that sets the key.
    #[must_use]
    pub fn env_name(&self) -> String {
        format!("{ENV_PREFIX}{}", self.name.replace('.', "__").to_uppercase())
    }
}

/// The prefix of Gantry's environment variables. A double underscore in a name stands for the dot of a key.
pub const ENV_PREFIX: &str = "GANTRY_";

/// Generates a struct for each section, and `KEYS`, the table of all keys. An entry is `field: Type = "meaning", key
/// description;`, and the field receives the key's value.
macro_rules! keys {
    ($( $(#[$attribute:meta])* $section:ident $path:literal {
        $( $field:ident: $type:ty = $meaning:literal, $key:expr; )*
    } )*) => {
        $(
            $(#[$attribute])*
            #[derive(Clone, PartialEq, Eq, Deserialize)]
            pub(super) struct $section {
                $( #[doc = $meaning] pub(super) $field: $type, )*
            }
        )*

        /// Every key, by section.
        pub const KEYS: &[Key] = &[
            $( $( $key.named(concat!($path, stringify!($field)), $meaning), )* )*
        ];
    };
}

pub(super) use keys;
