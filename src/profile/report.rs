//! The lines of a profile, grouped by layer, op, tower or kernel.

use super::{Profile, Scope};
use crate::device::KernelCounts;

/// What a line of the report sums up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Group {
    /// Each layer of each tower
    #[default]
    Layer,
    /// Each kind of op
    Op,
    /// Each tower
    Tower,
    /// Each GPU kernel, with what the emulator counted; only with --device emulator
    Kernel,
}

/// The sum over some scopes in one direction.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Name of the layer, op, tower or kernel.
    pub name: String,
    /// As [`Scope::direction`].
    pub direction: String,
    /// Sum of medians.
    pub seconds: f64,
    /// FLOPs of matrix products.
    pub flops: u64,
    /// The minimum to read and write.
    pub bytes: u64,
    /// `None` if a scope does not have it.
    pub moved_bytes: Option<u64>,
    /// The minimum time that the ceilings allow.
    pub limit_seconds: f64,
    /// What sets most of the limit: `compute` or `memory`.
    pub bound: String,
}

impl Line {
    /// The limit over the time, if there is a limit.
    pub fn fraction(&self) -> Option<f64> {
        (self.limit_seconds > 0.0 && self.seconds > 0.0).then(|| self.limit_seconds / self.seconds)
    }

    /// The moved bytes over the minimum, if both are known.
    pub fn of_minimum(&self) -> Option<f64> {
        self.moved_bytes.filter(|_| self.bytes > 0).map(|moved| moved as f64 / self.bytes as f64)
    }
}

/// The first `parts` parts of an op's scope: two of `vision/block_03/attention` are `vision/block_03`.
fn within(scope: &Scope, parts: usize) -> String {
    scope.scope.split('/').take(parts).collect::<Vec<_>>().join("/")
}

/// A kernel has no direction and no minimum traffic: those are its op's.
fn of_kernel(kernel: &KernelCounts) -> Line {
    Line {
        name: kernel.kernel.clone(),
        direction: String::new(),
        seconds: kernel.seconds,
        flops: kernel.mma_flops,
        bytes: 0,
        moved_bytes: Some(kernel.moved_bytes),
        limit_seconds: 0.0,
        bound: kernel.slowest.clone(),
    }
}

/// The lines of `profile` in the order of their first scope.
pub fn group(profile: &Profile, by: Group) -> Vec<Line> {
    let name: fn(&Scope) -> String = match by {
        Group::Layer => |scope| within(scope, 2),
        Group::Op => |scope| scope.op.clone(),
        Group::Tower => |scope| within(scope, 1),
        Group::Kernel => return profile.kernels.iter().map(of_kernel).collect(),
    };
    let mut lines: Vec<(Line, f64)> = Vec::new();
    for scope in &profile.scopes {
        let name = name(scope);
        let same = |(line, _): &&mut (Line, f64)| line.name == name && line.direction == scope.direction;
        let by_compute = if scope.bound == "compute" { scope.limit_seconds } else { 0.0 };
        match lines.iter_mut().find(same) {
            Some((line, compute)) => {
                line.seconds += scope.seconds;
                line.flops += scope.flops;
                line.bytes += scope.bytes;
                line.moved_bytes = line.moved_bytes.zip(scope.moved_bytes).map(|(a, b)| a + b);
                line.limit_seconds += scope.limit_seconds;
                *compute += by_compute;
            }
            None => lines.push((
                Line {
                    name,
                    direction: scope.direction.clone(),
                    seconds: scope.seconds,
                    flops: scope.flops,
                    bytes: scope.bytes,
                    moved_bytes: scope.moved_bytes,
                    limit_seconds: scope.limit_seconds,
                    bound: String::new(),
                },
                by_compute,
            )),
        }
    }
    let finish = |(line, compute): (Line, f64)| {
        let bound = match line.limit_seconds {
            0.0 => "-",
            limit if compute > limit / 2.0 => "compute",
            _ => "memory",
        };
        Line { bound: bound.to_owned(), ..line }
    };
    lines.into_iter().map(finish).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::profile::Ceilings;

    pub(crate) fn sample() -> Profile {
        let scope = |scope: &str, op: &str, direction: &str, seconds, limit_seconds, bound: &str| Scope {
            scope: scope.to_owned(),
            op: op.to_owned(),
            direction: direction.to_owned(),
            seconds,
            flops: 10,
            bytes: 5,
            moved_bytes: (op != "adamw").then_some(6),
            limit_seconds,
            bound: bound.to_owned(),
        };
        Profile {
            device: "test".to_owned(),
            model: "tiny".to_owned(),
            mask_ratio: 0.5,
            batch: 4,
            samples_per_second: 0.5,
            step_seconds: 8.0,
            training_step_seconds: None,
            training_steps: None,
            first_step_seconds: None,
            data_wait_seconds: 0.0,
            model_flops_per_sample: 10,
            model_flop_utilisation: 0.5,
            peak_memory_bytes: 100,
            memory: vec![("activations".to_owned(), 100)],
            activations: vec![("vision/block_*".to_owned(), 120)],
            totals: BTreeMap::new(),
            ceilings: Ceilings::ESTIMATED,
            gpu: Vec::new(),
            kernels: Vec::new(),
            scopes: vec![
                scope("vision/block_00", "layernorm", "forward", 1.0, 0.5, "memory"),
                scope("vision/block_00/attention", "linear", "forward", 2.0, 1.5, "compute"),
                scope("vision/block_00/attention", "linear", "backward", 4.0, 3.0, "compute"),
                scope("optimizer", "adamw", "update", 1.0, 0.9, "memory"),
            ],
        }
    }

    #[test]
    fn scopes_add_up_to_lines() {
        let lines = group(&sample(), Group::Layer);
        assert_eq!(lines.len(), 3);
        let first = &lines[0];
        assert_eq!((first.name.as_str(), first.seconds, first.limit_seconds), ("vision/block_00", 3.0, 2.0));
        assert_eq!((first.bound.as_str(), first.flops), ("compute", 20));
        assert_eq!((first.moved_bytes, first.of_minimum(), lines[2].of_minimum()), (Some(12), Some(1.2), None));
        assert_eq!(group(&sample(), Group::Op).len(), 4);
        let towers = group(&sample(), Group::Tower);
        assert_eq!((towers[1].direction.as_str(), towers[1].fraction()), ("backward", Some(0.75)));
    }
}
