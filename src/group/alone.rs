//! A group of one.

use super::{Group, GroupError, Place};

/// The group of a process that trains alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Group for Alone {
    fn place(&self) -> Place {
        Place::on_one_machine(0, 1)
    }

    fn describe(&self) -> String {
        "one process".to_owned()
    }

    fn all_gather(&self, _: &mut [u32], _: usize) -> Result<(), GroupError> {
        Ok(())
    }

    fn gather(&self, own: &[u32], all: &mut [u32], _: usize, _: usize) -> Result<(), GroupError> {
        all.copy_from_slice(own);
        Ok(())
    }

    fn all_to_all(&self, parts: &[u32], received: &mut [u32]) -> Result<(), GroupError> {
        received.copy_from_slice(parts);
        Ok(())
    }

    fn broadcast(&self, _: &mut [u32]) -> Result<(), GroupError> {
        Ok(())
    }
}
