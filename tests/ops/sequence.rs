//! The ops that make, cut and pool sequences.

use flipk::ops::assemble::Positions;
use flipk::ops::gather_patches::Normalisation;
use flipk::ops::select_token::{Find, Place};
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

/// The mean of the tokens from number `skip` on.
fn mean(x: &[f64], [batch, tokens, width]: [usize; 3], skip: usize) -> Vec<f64> {
    let at = |sample: usize, i: usize| {
        let tokens_of = (skip..tokens).map(|token| x[(sample * tokens + token) * width + i]);
        tokens_of.sum::<f64>() / (tokens - skip) as f64
    };
    (0..batch).flat_map(|sample| (0..width).map(move |i| at(sample, i)).collect::<Vec<_>>()).collect()
}

#[test]
fn pooling_takes_the_mean() {
    let shape = [3, 4, 5];
    for skip in [0, 1, 3] {
        Case { inputs: &[&shape], params: &[] }
            .check(|tape, x, _| tape.pool(x[0], skip), |operands| mean(&operands[0], shape, skip));
    }
}

#[test]
fn pooling_takes_the_mean_of_a_residual_sum() {
    let shape = [3, 4, 5];
    Case { inputs: &[&shape, &shape], params: &[] }.check(
        |tape, x, _| tape.residual_pool(x[0], Some(x[1]), 1),
        |operands| {
            let [x, delta] = [0, 1].map(|operand| mean(&operands[operand], shape, 1));
            x.iter().zip(delta).map(|(x, delta)| x + delta).collect()
        },
    );
}

#[test]
fn a_token_is_selected_at_the_same_place() {
    for ([batch, tokens, width], place) in [([3, 4, 5], 0), ([3, 4, 5], 3), ([2, 1, 7], 0)] {
        Case { inputs: &[&[batch, tokens, width]], params: &[] }.check(
            |tape, x, _| tape.select_token(x[0], Place::At(place)),
            |operands| {
                let samples = operands[0].chunks_exact(tokens * width);
                samples.flat_map(|x| x[place * width..][..width].to_vec()).collect()
            },
        );
    }
}

/// Of equal tokens the first counts; a token that is not there is taken to be at the start.
#[test]
fn a_token_is_selected_where_it_is_found() {
    let (batch, tokens, width) = (3, 4, 5);
    let ids = vec![7, 9, 2, 9, 0, 0, 0, 0, 2, 3, 4, 5];
    for (find, places) in
        [(Find::Largest, [1, 0, 3]), (Find::Id(2), [2, 0, 0]), (Find::Id(0), [0, 0, 0]), (Find::Id(5), [0, 0, 3])]
    {
        Case { inputs: &[&[batch, tokens, width]], params: &[] }.check(
            |tape, x, _| {
                let slot = tape.input(ids.len());
                let places = tape.find_token(slot, [batch, tokens], find);
                let out = tape.select_token(x[0], Place::Each(places));
                Recorded { tokens: vec![(slot, ids.clone())], ..Recorded::from(out) }
            },
            |operands| {
                let samples = operands[0].chunks_exact(tokens * width).zip(places);
                samples.flat_map(|(x, place)| x[place * width..][..width].to_vec()).collect()
            },
        );
    }
}

#[test]
fn layer_scale_multiplies_each_feature() {
    for (rows, width) in [(1, 3), (7, 5), (300, 20)] {
        Case { inputs: &[&[rows, width]], params: &[&[width]] }.check(
            |tape, x, p| tape.layer_scale(x[0], p[0]),
            |operands| operands[0].iter().enumerate().map(|(at, x)| x * operands[1][at % width]).collect(),
        );
    }
}

#[test]
fn a_cast_changes_nothing_on_the_cpu() {
    Case { inputs: &[&[3, 1, 5]], params: &[] }.check(
        |tape, x, _| {
            let mean = tape.pool(x[0], 0);
            tape.cast(mean)
        },
        |operands| operands[0].clone(),
    );
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
