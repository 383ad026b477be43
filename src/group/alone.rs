//! A group of one.

use super::exchange::Received;
use super::{Exchange, Group, GroupError, Place};

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

    fn start_all_to_all(&self, parts: Vec<u32>, _: &[usize], _: &[usize]) -> Result<Box<dyn Exchange>, GroupError> {
        Ok(Box::new(Received(parts)))
    }

    fn broadcast(&self, _: &mut [u32]) -> Result<(), GroupError> {
        Ok(())
    }
}
