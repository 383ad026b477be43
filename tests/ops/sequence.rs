//! The ops that make, cut and pool sequences.

use flipk::ops::assemble::Positions;
use flipk::ops::gather_patches::Normalisation;
use flipk::random::{Purpose, Random};

use crate::harness::{Case, Recorded};

fn visible(batch: usize, patches: usize, kept: usize) -> Vec<u32> {
    let mut random = Random::new(5, Purpose::Test, 0, 0);
    (0..batch).flat_map(|_| random.permutation(patches).into_iter().take(kept).collect::<Vec<_>>()).collect()
}

#[test]
fn patches_are_normalised_by_channel() {
    let shape = [3, 5, 4 * 4 * 3];
    let mut random = Random::new(6, Purpose::Test, 0, 0);
    let patches: Vec<u8> = (0..shape.iter().product()).map(|_| random.below(256) as u8).collect();
    let pixels = patches.clone();
    Case { inputs: &[], params: &[] }.check(
        |tape, _, _| {
            let slot = tape.input(patches.len());
            let out = tape.gather_patches(slot, shape, Normalisation::IMAGENET);
            Recorded { out, bytes: vec![(slot, patches)], indices: vec![], tokens: vec![] }
        },
        |_| {
            let Normalisation { mean, std } = Normalisation::IMAGENET;
            let normal = |(index, byte): (usize, &u8)| {
                (f64::from(*byte) / 255.0 - f64::from(mean[index % 3])) / f64::from(std[index % 3])
            };
            pixels.iter().enumerate().map(normal).collect()
        },
    );
}

#[test]
fn assemble_puts_cls_first_and_adds_positions_by_index() {
    let (batch, kept, width) = (4, 3, 6);
    let ids = visible(batch, 9, kept);
    let places = ids.clone();
    Case { inputs: &[&[batch, kept, width]], params: &[&[width], &[10, width]] }.check(
        |tape, x, p| {
            let slot = tape.input(ids.len());
            let out = tape.assemble(x[0], slot, p[0], Positions::Learned(p[1]));
            Recorded { indices: vec![(slot, ids)], ..Recorded::from(out) }
        },
        |operands| {
            let (patches, cls, pos) = (&operands[0], &operands[1], &operands[2]);
            let mut out = vec![];
            for sample in 0..batch {
                out.extend((0..width).map(|i| cls[i] + pos[i]));
                for k in 0..kept {
                    let place = sample * kept + k;
                    let row = (places[place] as usize + 1) * width;
                    out.extend((0..width).map(|i| patches[place * width + i] + pos[row + i]));
                }
            }
            out
        },
    );
}

#[test]
fn a_fixed_table_is_added_and_stays() {
    let (batch, kept, width) = (2, 2, 4);
    let (ids, table) = (vec![3, 0, 1, 2], (0..20).map(|i| i as f32).collect::<Vec<f32>>());
    let (places, rows) = (ids.clone(), table.clone());
    Case { inputs: &[&[batch, kept, width]], params: &[&[width]] }.check(
        |tape, x, p| {
            let (slot, table) = (tape.input(ids.len()), tape.constant(table));
            let out = tape.assemble(x[0], slot, p[0], Positions::Fixed(table));
            Recorded { indices: vec![(slot, ids)], ..Recorded::from(out) }
        },
        |operands| {
            let at = |row: usize, i: usize| f64::from(rows[row * width + i]);
            let mut out = vec![];
            for sample in 0..batch {
                out.extend((0..width).map(|i| operands[1][i] + at(0, i)));
                for place in sample * kept..(sample + 1) * kept {
                    let row = places[place] as usize + 1;
                    out.extend((0..width).map(|i| operands[0][place * width + i] + at(row, i)));
                }
            }
            out
        },
    );
}

#[test]
fn embedding_sums_gradients_of_repeated_tokens() {
    let (batch, context, width, vocab) = (3, 4, 5, 6);
    let tokens = vec![0, 1, 1, 5, 2, 2, 2, 0, 4, 1, 0, 5];
    let words = tokens.clone();
    Case { inputs: &[], params: &[&[vocab, width], &[context, width]] }.check(
        |tape, _, p| {
            let slot = tape.input(tokens.len());
            let out = tape.embedding(slot, batch, p[0], p[1]);
            Recorded { tokens: vec![(slot, tokens)], ..Recorded::from(out) }
        },
        |operands| {
            let at = |place: usize, i: usize| {
                operands[0][words[place] as usize * width + i] + operands[1][place % context * width + i]
            };
            (0..batch * context).flat_map(|place| (0..width).map(move |i| at(place, i)).collect::<Vec<_>>()).collect()
        },
    );
}

#[test]
fn pooling_takes_the_mean() {
    let (batch, tokens, width) = (3, 4, 5);
    let shape: &[&[usize]] = &[&[batch, tokens, width]];
    let row = |x: &[f64], sample: usize, token: usize| x[(sample * tokens + token) * width..][..width].to_vec();
    Case { inputs: shape, params: &[] }.check(
        |tape, x, _| tape.pool(x[0]),
        |operands| {
            let mean = |sample: usize, i: usize| {
                (0..tokens).map(|token| row(&operands[0], sample, token)[i]).sum::<f64>() / tokens as f64
            };
            (0..batch).flat_map(|sample| (0..width).map(move |i| mean(sample, i)).collect::<Vec<_>>()).collect()
        },
    );
}

#[test]
fn first_tokens_are_taken() {
    for (batch, tokens, width) in [(3, 4, 5), (2, 1, 7)] {
        Case { inputs: &[&[batch, tokens, width]], params: &[] }.check(
            |tape, x, _| tape.first_tokens(x[0]),
            |operands| operands[0].chunks_exact(tokens * width).flat_map(|x| x[..width].to_vec()).collect(),
        );
    }
}

#[test]
fn l2norm_makes_unit_rows() {
    // A row of one has no gradient: its result is its sign.
    for width in [2, 3, 40] {
        Case { inputs: &[&[5, width]], params: &[] }.check(
            |tape, x, _| tape.l2norm(x[0]),
            |operands| {
                let rows = operands[0].chunks_exact(width);
                rows.flat_map(|row| {
                    let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
                    row.iter().map(move |x| x / (norm + 1e-8)).collect::<Vec<_>>()
                })
                .collect()
            },
        );
    }
}
