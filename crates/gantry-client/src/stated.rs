//! The checksum that the relays of one download state.
//!
//! Not every relay can learn it in time: the first may state none, and one that takes over may state it. None may
//! contradict another.

use std::sync::{Arc, OnceLock};

use super::Error;
use gantry_proto::{Accepted, Checksum};

/// Makes both ends.
pub(super) fn channel() -> (Sender, Later) {
    let later = Later::default();
    (Sender { known: None, is_first: true, later: later.clone() }, later)
}

/// The driver's end.
#[derive(Debug)]
pub(super) struct Sender {
    known: Option<Checksum>,
    is_first: bool,
    later: Later,
}

/// A checksum that was stated only after the transfer had begun.
#[derive(Clone, Debug, Default)]
pub(super) struct Later(Arc<OnceLock<Checksum>>);

impl Sender {
    /// Notes what a relay states.
    ///
    /// # Errors
    /// [`Error::Changed`] when it contradicts what another one stated.
    pub(super) fn note(&mut self, accepted: &Accepted) -> Result<(), Error> {
        let is_first = std::mem::replace(&mut self.is_first, false);
        let Some(stated) = &accepted.object.checksum else { return Ok(()) };

        match &self.known {
            Some(known) if known.contradicts(stated) => {
                return Err(Error::Changed("the object's checksum changed while it was downloaded".to_owned()));
            }
            Some(_) => {}
            None => self.known = Some(stated.clone()),
        }
        if !is_first && self.later.0.get().is_none() {
            // Only this end sets it.
            self.later.0.get_or_init(|| stated.clone());
        }
        Ok(())
    }
}

impl Later {
    pub(super) fn checksum(&self) -> Option<&Checksum> {
        self.0.get()
    }
}
