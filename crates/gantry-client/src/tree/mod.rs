//! Trees: many objects, downloaded into one folder.
//!
//! # From keys to paths
//! A key is split at its slashes into folders and a file below the target folder. [`Unusable`] lists the keys that
//! can't be a path, [`Names`] the parts that are spelled differently, and [`LeftOut`] the other obstacles. Such an
//! object is left out and reported, and the others continue. A key that ends with a slash, with an object of 0 bytes,
//! becomes a folder. Symbolic links below the target folder are neither followed nor replaced.
//!
//! # Which objects are fetched
//! An object is fetched if its file is missing, or has another size or modification time: see [`Compare`]. Files get
//! the modification time of their object, unless [`TreeOptions::keep_times`] is off.
//!
//! # Durability
//! Files are collected in `.gantry-tree` in the target folder. After a second or a thousand files they are made durable
//! together, and only then moved to their places. At the end the folders are made durable as well. A file in its place
//! is therefore complete and verified, even after a crash of the machine.
//!
//! # Interruptions
//! The next download into the same folder uses the files in `.gantry-tree`, and resumes large objects there. The folder
//! is removed at the end of a download that was not interrupted. Only one process at a time can use it.
//!
//! # Memory
//! Memory does not depend on the number of keys, with one exception: a set of eight bytes per key finds duplicate
//! paths, unless the objects are those of one listing ([`TreeOptions::ordered`]) and the file system respects case.

mod commit;
mod fetch;
mod folder;
mod item;
mod name;
mod options;
mod plan;
mod prune;
mod report;
mod run;
mod stage;
mod time;

pub use self::folder::Blocked;
pub use self::item::Item;
pub use self::name::{Names, Unusable};
pub use self::options::{Compare, TreeOptions};
pub use self::report::{Event, LeftOut, TreeProgress, TreeReport};
