//! The checksum that the relays of one download state.
//!
//! A relay may not know the checksum in time: the first relay may state none, and a later one may. Two relays must not
//! contradict each other.

use std::sync::{Arc, OnceLock};

use gantry_proto::Checksum;

use crate::error::Error;

/// Creates both ends.
pub(crate) fn channel() -> (Sender, Later) {
    let later = Later::default();
    (Sender { known: None, is_first: true, later: later.clone() }, later)
}

/// The driver's end.
#[derive(Debug)]
pub(crate) struct Sender {
    known: Option<Checksum>,
    is_first: bool,
    later: Later,
}

/// The checksum that a later relay stated after the first one had stated none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Later(Arc<OnceLock<Checksum>>);

impl Sender {
    /// Records the checksum that the next relay states, if it does.
    ///
    /// # Errors
    /// [`Error::Changed`] if it contradicts the checksum of an earlier relay.
    pub(crate) fn note(&mut self, stated: Option<&Checksum>) -> Result<(), Error> {
        let is_first = std::mem::replace(&mut self.is_first, false);
        let Some(stated) = stated else { return Ok(()) };

        match &self.known {
            Some(known) if known.contradicts(stated) => {
                return Err(Error::Changed("the object's checksum changed during the download".to_owned()));
            }
            Some(_) => {}
            None => self.known = Some(stated.clone()),
        }

        if !is_first {
            // The first later checksum counts. Only this end sets it.
            self.later.0.get_or_init(|| stated.clone());
        }
        Ok(())
    }
}

impl Later {
    pub(crate) fn checksum(&self) -> Option<&Checksum> {
        self.0.get()
    }
}
