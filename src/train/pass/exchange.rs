//! Gradients of all ranks, exchanged bucket by bucket during the backward pass. Only bytes move between ranks;
//! sums are made here, in the tree over micro-batches.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::masters::Masters;
use crate::autograd::Parameters;
use crate::device::{Buffer, Device, DeviceError};
use crate::group::{Exchange, Group, GroupError, Level, Levels};
use crate::ops::copy_blocks::CopyBlocks;
use crate::ops::sum_rows::{SumRows, sum_rows};
use crate::optim::Slices;

/// Buckets whose exchange through the host is not complete, at most.
const IN_FLIGHT: usize = 4;

/// Bytes of the buffers that an exchange takes besides the gradients, on the device or through the host.
pub(crate) fn buffer_bytes(slices: &Slices, levels: &Levels, by_device: bool) -> usize {
    let received = levels.0.iter().map(|level| level.peers.len() * level.owners().len());
    let parts = match by_device {
        true => received.sum::<usize>() + owners_of_sums(&levels.0),
        // What is sent and what is received.
        false => 2 * IN_FLIGHT.min(slices.buckets().len()) * slices.ranks(),
    };
    size_of::<f32>() * parts * slices.largest()
}

/// The slices of which a rank holds sums between two levels.
fn owners_of_sums(levels: &[Level]) -> usize {
    if levels.len() > 1 { levels[0].owners().len() } else { 0 }
}

/// Turns the gradients of each rank's micro-batches into sums over all ranks; each rank keeps its own slices.
pub(crate) struct GradientExchange<D: Device> {
    group: Arc<dyn Group>,
    slices: Slices,
    levels: Levels,
    /// For each level what the device receives, a row from each peer, if it exchanges its memory by itself.
    received: Vec<Buffer<D, f32>>,
    /// The sums of the first of two levels.
    sums: Buffer<D, f32>,
    /// Through the host: buckets that are being exchanged.
    in_flight: VecDeque<InFlight>,
    /// Memory of exchanges that are over, for the next ones: touching new memory takes as long as moving the data.
    spare: Vec<Vec<f32>>,
    /// Buckets to start, from the last one of the arena, which is complete first.
    left: usize,
    /// Where products read a rounded copy of the weights.
    masters: Option<Masters<D>>,
    /// Whether weights were updated that other ranks do not have yet.
    stale: bool,
    /// The gathering of each bucket's weights, in the order of the arena, until something waits for it.
    weights: VecDeque<(usize, D::Event)>,
}

/// A bucket that is being exchanged through the host.
struct InFlight {
    bucket: usize,
    level: usize,
    exchange: Box<dyn Exchange>,
}

impl<D: CopyBlocks + SumRows> GradientExchange<D> {
    /// For a group of several ranks, or one that is connected to itself.
    ///
    /// # Errors
    /// If the device has too little memory, or the group fails.
    pub(crate) fn new(
        device: &D,
        group: Arc<dyn Group>,
        params: &Parameters<D>,
        slices: Slices,
    ) -> Result<Self, DeviceError> {
        let masters = D::SHADOW_WEIGHTS.then(|| Masters::new(device, params, &slices)).transpose()?;
        let levels = Levels::in_group(&*group)?;
        let by_device = if device.connects_ranks() { &levels.0[..] } else { &[] };
        let buffer = |rows: usize| Buffer::unwritten(device, rows * slices.largest(), "the gradients of other ranks");
        let received = by_device.iter().map(|level| buffer(level.peers.len() * level.owners().len()));
        let received = received.collect::<Result<_, _>>()?;
        let sums = buffer(owners_of_sums(by_device))?;
        let left = slices.buckets().len();
        Ok(Self {
            group,
            slices,
            levels,
            received,
            sums,
            in_flight: VecDeque::new(),
            spare: Vec::new(),
            left,
            masters,
            stale: false,
            weights: VecDeque::new(),
        })
    }

    /// The slices of the arena.
    pub(crate) fn slices(&self) -> &Slices {
        &self.slices
    }

    /// Whether weights were updated that other ranks do not have yet.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale
    }

    /// This rank has updated its slices of the weights.
    pub(crate) fn set_stale(&mut self) {
        self.stale = true;
    }

    /// All-gathers the weights. If products read bf16 copies, it gathers those, and in f32 the few parameters that
    /// other ops read. On a device that moves its memory by itself, this overlaps with the forward pass that follows.
    ///
    /// # Errors
    /// If the device fails, or the group.
    pub(crate) fn gather_weights(&mut self, device: &D, params: &mut Parameters<D>) -> Result<(), DeviceError> {
        let Self { group, slices, masters, weights, stale, left, .. } = self;
        *stale = false;
        // A capture that failed may have left these in the middle of a step.
        weights.clear();
        *left = slices.buckets().len();
        device.fork(|| {
            for (bucket, range) in slices.buckets().iter().enumerate() {
                let in_f32 = match masters {
                    Some(masters) => masters.pack(device, (bucket, group.rank()), params)?,
                    None => None,
                };
                let blocks = match params.weights_mut() {
                    (_, Some(shadow)) => shadow.blocks_mut(range.clone(), slices.each(bucket)),
                    (values, None) => values.buffer_mut().blocks_mut(range.clone(), slices.each(bucket)),
                };
                device.all_gather(&**group, in_f32.into_iter().chain([blocks]).collect())?;
                if let Some(masters) = masters {
                    masters.unpack(device, bucket, params)?;
                }
                weights.push_back((bucket, device.record_event()?));
            }
            Ok(())
        })
    }

    /// Lets the device wait until the weights of all buckets up to this one are there.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn wait_for_weights(&mut self, device: &D, bucket: usize) -> Result<(), DeviceError> {
        let there = self.weights.iter().take_while(|(other, _)| *other <= bucket).count();
        self.weights.drain(..there).last().map_or(Ok(()), |(_, event)| device.wait_event(&event))
    }

    /// The bucket that is to be exchanged next, and its part of the arena.
    pub(super) fn next(&self) -> Option<(usize, Range<usize>)> {
        let bucket = self.left.checked_sub(1)?;
        Some((bucket, self.slices.buckets()[bucket].clone()))
    }

    /// Starts the exchange of the next bucket, whose gradients are complete.
    ///
    /// # Errors
    /// If the device fails, or the group.
    pub(super) fn start(&mut self, device: &D, grads: &mut Buffer<D, f32>) -> Result<(), DeviceError> {
        let Some((bucket, range)) = self.next() else { return Ok(()) };
        self.left = bucket;
        if !self.received.is_empty() {
            return device.fork(|| self.on_device(device, bucket, grads));
        }
        if self.in_flight.len() == IN_FLIGHT {
            self.complete_oldest(device, grads)?;
        }
        // All ranks start exchanges in the same order: those of second levels just before the next bucket.
        self.start_next_level()?;
        let mut parts = self.spare.pop().unwrap_or_default();
        parts.clear();
        device.on_host(grads.range_mut(range.clone()), 0..range.len(), |own| {
            for owner in self.levels.0[0].peers.iter().flat_map(|peer| &peer.owners) {
                let slice = self.slices.of(bucket, *owner);
                parts.extend_from_slice(&own[slice.start - range.start..slice.end - range.start]);
            }
        })?;
        let exchange = self.send(bucket, 0, parts)?;
        self.in_flight.push_back(InFlight { bucket, level: 0, exchange });
        Ok(())
    }

    /// Elements of the slices of these ranks.
    fn len_of(&self, bucket: usize, owners: &[usize]) -> usize {
        owners.iter().map(|owner| self.slices.of(bucket, *owner).len()).sum()
    }

    /// Sends `parts` to the peers of a level: the slices of each one's owners, one after the other.
    fn send(&self, bucket: usize, level: usize, parts: Vec<f32>) -> Result<Box<dyn Exchange>, GroupError> {
        let level = &self.levels.0[level];
        let [mut to, mut from] = [(); 2].map(|()| vec![0; self.group.size()]);
        for peer in &level.peers {
            to[peer.rank] = self.len_of(bucket, &peer.owners);
            from[peer.rank] = self.len_of(bucket, level.owners());
        }
        self.group.start_all_to_all(bytemuck::cast_vec(parts), &to, &from)
    }

    /// Polls the exchanges.
    pub(super) fn poll(&mut self) -> Result<(), GroupError> {
        self.in_flight.iter_mut().try_for_each(|one| one.exchange.poll().map(drop))
    }

    /// Starts the next level of the newest bucket, if it has not reached the last one.
    fn start_next_level(&mut self) -> Result<(), GroupError> {
        let last = self.levels.0.len() - 1;
        let Some(newest) = self.in_flight.pop_back() else { return Ok(()) };
        let next = match newest {
            InFlight { level, .. } if level == last => newest,
            InFlight { bucket, level, exchange } => {
                let leaves = bytemuck::cast_vec(exchange.wait()?);
                let mut sums = self.spare.pop().unwrap_or_default();
                sums.resize(self.len_of(bucket, self.levels.0[level].owners()), 0.0);
                sum_rows(&mut sums, &leaves);
                self.spare.push(leaves);
                InFlight { bucket, level: level + 1, exchange: self.send(bucket, level + 1, sums)? }
            }
        };
        self.in_flight.push_back(next);
        Ok(())
    }

    /// Completes the oldest bucket.
    fn complete_oldest(&mut self, device: &D, grads: &mut Buffer<D, f32>) -> Result<(), DeviceError> {
        if self.in_flight.len() == 1 {
            self.start_next_level()?;
        }
        let Some(InFlight { bucket, exchange, .. }) = self.in_flight.pop_front() else { return Ok(()) };
        let leaves = bytemuck::cast_vec(exchange.wait()?);
        let own = self.slices.of(bucket, self.group.rank());
        device.on_host(grads.range_mut(own), 0..0, |own| sum_rows(own, &leaves))?;
        self.spare.push(leaves);
        Ok(())
    }

    /// Completes all buckets, which must have been started. Afterwards this rank's slices of `grads` are sums over all
    /// ranks.
    ///
    /// # Errors
    /// If the device fails, or the group.
    pub(super) fn finish(&mut self, device: &D, grads: &mut Buffer<D, f32>) -> Result<(), DeviceError> {
        debug_assert!(self.next().is_none(), "a bucket without its last gradients");
        while !self.in_flight.is_empty() {
            self.complete_oldest(device, grads)?;
        }
        self.left = self.slices.buckets().len();
        device.join()
    }

    /// All levels of a bucket, without the host.
    fn on_device(&mut self, device: &D, bucket: usize, grads: &mut Buffer<D, f32>) -> Result<(), DeviceError> {
        let Self { slices, levels, received, sums, group, .. } = self;
        for (index, (level, received)) in levels.0.iter().zip(received).enumerate() {
            let lens = level.owners().iter().map(|owner| slices.of(bucket, *owner).len());
            let (count, len) = (level.peers.len(), lens.clone().sum::<usize>());
            let sends = level.peers.iter().flat_map(|peer| peer.owners.iter().map(|owner| (peer.rank, *owner)));
            let sends = match index {
                0 => sends.map(|(rank, owner)| (rank, grads.range(slices.of(bucket, owner)))).collect(),
                // The sums of the level before lie one after the other.
                _ => {
                    let parts = consecutive(sends.clone().map(|(_, owner)| slices.of(bucket, owner).len()));
                    sends.zip(parts).map(|((rank, _), part)| (rank, sums.range(part))).collect()
                }
            };
            // A row for each peer, and in it a part for each owner.
            let senders = level.peers.iter().flat_map(|peer| level.owners().iter().map(|_| peer.rank));
            let parts = received.ranges_mut(consecutive((0..count).flat_map(|_| lens.clone())).into_iter());
            device.all_to_all(sends, senders.zip(parts).collect())?;
            let into = match index + 1 == levels.0.len() {
                true => grads.range_mut(slices.of(bucket, group.rank())),
                false => sums.range_mut(0..len),
            };
            if len > 0 {
                device.sum_rows(into, received.range(0..count * len), count)?;
            }
        }
        Ok(())
    }
}

/// Ranges of these lengths, one after the other.
fn consecutive(lens: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut end = 0;
    let range = |len: usize| {
        end += len;
        end - len..end
    };
    lens.map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Cpu;
    use crate::group::Threads;

    /// The own slices of all ranks together are the sums in the tree, whatever the length and the levels.
    #[test]
    fn each_rank_has_the_sum_of_its_slices() {
        let block = crate::ops::adamw::NORM_BLOCK;
        for (size, local, len, bucket) in [
            (2, 2, 64, 1),
            (3, 3, 5 * block - 64, 1),
            (5, 5, 3 * block, 3 * block),
            (2, 2, 3 << 20, 1 << 18),
            (8, 2, 21 * block - 64, 1),
            (8, 4, 40 * block, 9 * block),
            (6, 2, 40 * block - 128, 1),
        ] {
            let slices = Slices::in_buckets(len, size, [bucket, bucket]);
            let grads = |rank: usize| -> Vec<f32> {
                (0..len)
                    .map(|at| libm::expf(((at * 37 + rank * 101) % 23) as f32) * if at % 3 == 0 { -1.0 } else { 1.1 })
                    .collect()
            };
            let run = move |group: Threads, grads: Vec<f32>, slices: Slices| {
                let (device, group) = (Cpu::default(), Arc::new(group));
                let mut buffer = Buffer::new(&device, len, "gradients").unwrap();
                let params = Parameters::new(&device, Arc::default(), &[]).unwrap();
                let mut exchange = GradientExchange::new(&device, group.clone(), &params, slices.clone()).unwrap();
                // The second step starts as the first did.
                for _ in 0..2 {
                    buffer.upload(&device, &grads).unwrap();
                    while exchange.next().is_some() {
                        exchange.start(&device, &mut buffer).unwrap();
                        exchange.poll().unwrap();
                    }
                    exchange.finish(&device, &mut buffer).unwrap();
                }
                let all = buffer.download(&device).unwrap();
                (
                    slices.own(group.rank()).into_iter().map(|own| (own.start, all[own].to_vec())).collect::<Vec<_>>(),
                    group,
                )
            };
            let ranks: Vec<_> = Threads::on_machines(size, local)
                .into_iter()
                .map(|group| {
                    let (grads, slices) = (grads(group.rank()), slices.clone());
                    std::thread::spawn(move || run(group, grads, slices))
                })
                .collect();
            let ranks: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
            let mut found: Vec<_> = ranks.into_iter().flat_map(|(own, _)| own).collect();
            found.sort_by_key(|(start, _)| *start);
            let found: Vec<f32> = found.into_iter().flat_map(|(_, own)| own).collect();
            let all: Vec<Vec<f32>> = (0..size).map(grads).collect();
            let expected = (0..len).map(|at| {
                let mut leaves: Vec<f32> = all.iter().map(|grads| grads[at]).collect();
                crate::ops::sum_rows::sum_in_place(&mut leaves, 1);
                leaves[0]
            });
            assert!(found.iter().copied().eq(expected), "{size} ranks, {local} a machine, {len}");
        }
    }
}
