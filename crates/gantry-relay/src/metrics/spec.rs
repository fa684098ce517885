//! How a metric is defined: its name, kind, unit, labels and help text.

use prometheus_client::registry::{Metric, Registry, Unit};

/// The prefix of every metric name, except for metrics of the process.
pub const PREFIX: &str = "gantry";

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A count that only grows.
    Counter,
    /// A value that can rise and fall.
    Gauge,
    /// A distribution of values.
    Histogram,
    /// A constant 1 whose labels carry the information.
    Info,
}

/// The definition of one metric.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The name without the prefix, the unit and the suffix of the text format.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: Option<&'static str>,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

impl Spec {
    /// Defines a metric: its name without the prefix, the unit and the suffix of the text format.
    #[must_use]
    pub const fn new(name: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind, unit: None, labels, help }
    }

    /// Sets the unit of the values.
    #[must_use]
    pub const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = Some(unit);
        self
    }

    /// Returns the name without the prefix, the unit and the suffix of the text format.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the help text.
    #[must_use]
    pub const fn help(&self) -> &'static str {
        self.help
    }

    /// Returns the full name, without the suffixes of a histogram's series.
    #[must_use]
    pub fn full_name(&self) -> String {
        let mut name = self.name.to_owned();
        if !name.starts_with("process_") {
            name = format!("{PREFIX}_{name}");
        }
        if let Some(unit) = self.unit {
            name = format!("{name}_{unit}");
        }
        name + match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        }
    }

    /// Adds a metric with this definition to a registry.
    pub fn register(&self, registry: &mut Registry, metric: impl Metric) {
        match self.unit {
            Some(unit) => registry.register_with_unit(self.name, self.help, Unit::Other(unit.to_owned()), metric),
            None => registry.register(self.name, self.help, metric),
        }
    }
}

/// Defines a set of metrics. One entry is everything there is to state about a metric:
///
/// ```text
/// pub field: Type = initial value, Kind, "name" in "unit", ["label"], "help text";
/// ```
///
/// The initial value and the unit are optional. The help text is also the documentation of the field. Fields after `with`
/// are sets of their own.
macro_rules! metrics {
    (@new $type:ty) => { <$type>::default() };
    (@new $type:ty, $new:expr) => { $new };
    (@unit) => { None };
    (@unit $unit:literal) => { Some($unit) };
    (
        $(#[$attribute:meta])*
        pub struct $set:ident {
            $(
                $visibility:vis $field:ident: $type:ty $(= $new:expr)?,
                $kind:ident, $name:literal $(in $unit:literal)?, [$($label:literal),*], $help:literal;
            )*
        }
        $(with { $($(#[$inner:meta])* $inner_visibility:vis $inner_set:ident: $inner_type:ty,)* })?
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Debug)]
        pub struct $set {
            $(
                #[doc = $help]
                #[doc = "."]
                $visibility $field: $type,
            )*
            $($(
                $(#[$inner])*
                $inner_visibility $inner_set: $inner_type,
            )*)?
        }

        impl Default for $set {
            fn default() -> Self {
                Self {
                    $($field: metrics!(@new $type $(, $new)?),)*
                    $($($inner_set: <$inner_type>::default(),)*)?
                }
            }
        }

        impl $set {
            pub(super) const SPECS: &[Spec] = &[
                $(Spec {
                    name: $name,
                    kind: Kind::$kind,
                    unit: metrics!(@unit $($unit)?),
                    labels: &[$($label),*],
                    help: $help,
                },)*
            ];

            /// Adds the metrics of the set to a registry, without those of inner sets.
            pub(super) fn register_all(&self, registry: &mut Registry) {
                let mut specs = Self::SPECS.iter();
                $(
                    if let Some(spec) = specs.next() {
                        spec.register(registry, self.$field.clone());
                    }
                )*
            }
        }
    };
}

pub(super) use metrics;
