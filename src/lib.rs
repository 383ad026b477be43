//! flipk trains FLIP, that is, CLIP with most of the image patches left out.
//!
//! The rooms, from the top; each imports only from those below it:
//! [`train`], [`eval`] · [`model`] · [`data`] · [`autograd`] · [`ops`] · [`device`].

pub mod data;
pub mod ops;
pub mod random;
