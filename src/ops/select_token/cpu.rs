//! One token of each sequence on the CPU.

use rayon::prelude::*;

use super::{Find, Place, SelectToken, Shape};
use crate::device::{Cpu, DeviceError};

impl Place<&[u32]> {
    fn of(&self, sample: usize) -> usize {
        match self {
            Self::At(place) => *place,
            Self::Each(places) => places[sample] as usize,
        }
    }
}

impl SelectToken for Cpu {
    fn find_token(&self, find: Find, context: usize, tokens: &[i32], places: &mut [u32]) -> Result<(), DeviceError> {
        for (place, tokens) in places.iter_mut().zip(tokens.chunks_exact(context)) {
            let rank = |token: i32| match find {
                Find::Largest => i64::from(token),
                Find::Id(id) => i64::from(i64::from(token) == i64::from(id)),
            };
            let best = (0..context).rev().max_by_key(|at| rank(tokens[*at]));
            *place = best.unwrap_or(0) as u32;
        }
        Ok(())
    }

    fn select_token_forward(
        &self,
        shape: &Shape,
        place: Place<&[u32]>,
        x: &[f32],
        y: &mut [f32],
    ) -> Result<(), DeviceError> {
        let &Shape { tokens, width, .. } = shape;
        for (sample, (y, x)) in y.chunks_exact_mut(width).zip(x.chunks_exact(tokens * width)).enumerate() {
            y.copy_from_slice(&x[place.of(sample) * width..][..width]);
        }
        Ok(())
    }

    fn select_token_backward(
        &self,
        shape: &Shape,
        place: Place<&[u32]>,
        dy: &[f32],
        dx: &mut [f32],
    ) -> Result<(), DeviceError> {
        let &Shape { tokens, width, .. } = shape;
        dx.par_chunks_mut(tokens * width).zip(dy.par_chunks(width)).enumerate().for_each(|(sample, (dx, dy))| {
            dx.fill(0.0);
            dx[place.of(sample) * width..][..width].copy_from_slice(dy);
        });
        Ok(())
    }
}
