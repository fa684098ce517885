//! How a tree is downloaded.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::name::Names;
use super::report::TreeProgress;

/// When a file that exists counts as its object.
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
    /// Whether nothing is written, and only reported what would be.
    pub dry_run: bool,
    /// When a file that exists counts as its object.
    pub compare: Compare,
    /// Whether files get the modification times of their objects. On by default.
    pub keep_times: bool,
    /// How the parts of a key are spelled as names.
    pub names: Names,
    /// Whether the objects are those of one listing, in its order, so that no path comes twice. Off by default: then a set
    /// of eight bytes per object finds paths that do.
    pub ordered: bool,
    /// Whether files without an object are deleted from the target folder once all objects are known.
    ///
    /// Nothing is deleted if the objects do not come in ascending order of their keys, if there are none, or if a
    /// download fails for a reason that has nothing to do with its key. Links and special files are kept, and so are
    /// other file systems that are mounted in the folder.
    pub delete: bool,
    /// Receives the progress.
    pub progress: Option<watch::Sender<TreeProgress>>,
    /// Stops the download. What was fetched is kept.
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
    progress: Option<watch::Sender<TreeProgress>>,
    cancel: CancellationToken,
}
