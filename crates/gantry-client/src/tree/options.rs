//! How a tree is downloaded.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::name::Names;
use super::report::TreeProgress;

/// When an existing file counts as a copy of its object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compare {
    /// If it has the object's size and modification time. Without [`TreeOptions::keep_times`] it may be newer.
    ///
    /// Fractions of a second are compared only if both times have one.
    #[default]
    Times,
    /// If it matches the checksum that the store keeps. An object without one is fetched. Each object of the same size
    /// as its file takes a request, and the file is read.
    Checksums,
}

/// How a tree is downloaded.
///
/// # Examples
/// ```
/// use gantry_client::tree::{Compare, TreeOptions};
///
/// let options = TreeOptions::default().jobs(8).compare(Compare::Checksums);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TreeOptions {
    /// The number of objects that are downloaded at the same time, at least 1. 32 by default.
    pub jobs: usize,
    /// Whether to only report what would be written, and to write nothing.
    pub dry_run: bool,
    /// When an existing file counts as a copy of its object.
    pub compare: Compare,
    /// Whether files get the modification times of their objects. On by default.
    pub keep_times: bool,
    /// How the parts of a key are spelled as names.
    pub names: Names,
    /// Whether the objects are those of one listing, in its order, so that no path occurs twice. Off by default: a set
    /// of eight bytes per object then finds duplicate paths.
    pub ordered: bool,
    /// Whether files without an object are deleted from the target folder once all objects are known.
    ///
    /// Nothing is deleted if the keys are not in ascending order, if there are no objects, or if a download fails for a
    /// reason that does not concern its key only. Links, special files and mounted file systems in the folder are kept.
    pub delete: bool,
    /// Sets [`Get::context`](crate::Get::context) of all downloads. Without it, each of them has a random one.
    pub correlation: Option<String>,
    /// Receives the progress.
    pub progress: Option<watch::Sender<TreeProgress>>,
    /// Stops the download. Fetched bytes are kept.
    pub cancel: CancellationToken,
}

impl Default for TreeOptions {
    fn default() -> Self {
        Self {
            jobs: 32,
            dry_run: false,
            compare: Compare::default(),
            keep_times: true,
            names: Names::default(),
            ordered: false,
            delete: false,
            correlation: None,
            progress: None,
            cancel: CancellationToken::new(),
        }
    }
}

/// Defines a method for each field that sets it and returns the options.
macro_rules! setters {
    ($($field:ident: $type:ty),+ $(,)?) => {
        impl TreeOptions {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
                #[must_use]
                pub fn $field(mut self, $field: $type) -> Self {
                    self.$field = $field;
                    self
                }
            )+
        }
    };
}

setters! {
    jobs: usize,
    dry_run: bool,
    compare: Compare,
    keep_times: bool,
    names: Names,
    ordered: bool,
    delete: bool,
    correlation: Option<String>,
    progress: Option<watch::Sender<TreeProgress>>,
    cancel: CancellationToken,
}
