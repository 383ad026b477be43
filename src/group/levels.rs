//! Between whom ranks exchange: between all at once, or within each machine and then between machines, so that the
//! network between machines carries each sum once for each machine and not once for each of its ranks.

use super::{Group, GroupError};

/// The exchanges of a bucket, one after the other. After the last one, a rank has the sums of its own slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels(
    /// One or two.
    pub Vec<Level>,
);

/// An exchange between some ranks. Sums over them, in this order, are a subtree of the tree over all ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// The ranks, this one included.
    pub peers: Vec<Peer>,
    /// This rank's place among them.
    pub own: usize,
}

/// A rank of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number in the group.
    pub rank: usize,
    /// The ranks whose slices it adds up.
    pub owners: Vec<usize>,
}

impl Level {
    /// What this rank receives from each peer, and adds up.
    pub fn owners(&self) -> &[usize] {
        &self.peers[self.own].owners
    }
}

impl Levels {
    /// Two levels, if there are several machines with equally many ranks each, a power of two, that are numbered
    /// machine by machine; else one. All ranks must call this.
    ///
    /// # Errors
    /// If the group fails.
    pub fn in_group(group: &dyn Group) -> Result<Self, GroupError> {
        let place = group.place();
        let places = group.all([place.local_rank as u32, place.local_size as u32])?;
        Ok(Self::plan(group.rank(), &places))
    }

    /// As [`Self::in_group`]. `places`: number on its machine and ranks of its machine, for each rank.
    pub fn plan(rank: usize, places: &[[u32; 2]]) -> Self {
        let (size, local) = (places.len(), places[0][1] as usize);
        let regular = local.is_power_of_two()
            && size.is_multiple_of(local)
            && places.iter().enumerate().all(|(rank, place)| *place == [(rank % local) as u32, local as u32]);
        if !regular || local == 1 || local == size {
            let peers = (0..size).map(|rank| Peer { rank, owners: vec![rank] }).collect();
            return Self(vec![Level { peers, own: rank }]);
        }
        let (machine, own) = (rank / local, rank % local);
        let across = |own: usize| (0..size / local).map(move |machine| machine * local + own);
        let within = (0..local).map(|own| Peer { rank: machine * local + own, owners: across(own).collect() });
        let between = across(own).map(|rank| Peer { rank, owners: vec![rank] });
        Self(vec![Level { peers: within.collect(), own }, Level { peers: between.collect(), own: machine }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(size: u32, local: u32) -> Vec<[u32; 2]> {
        (0..size).map(|rank| [rank % local, local]).collect()
    }

    #[test]
    fn machines_exchange_within_and_then_between_them() {
        let levels = Levels::plan(6, &places(12, 4));
        let ranks = |level: &Level| level.peers.iter().map(|peer| peer.rank).collect::<Vec<_>>();
        assert_eq!((ranks(&levels.0[0]), ranks(&levels.0[1])), (vec![4, 5, 6, 7], vec![2, 6, 10]));
        assert_eq!((levels.0[0].owners(), levels.0[1].owners()), (&[2, 6, 10][..], &[6][..]));
    }

    #[test]
    fn other_places_exchange_all_at_once() {
        let mut uneven = places(8, 4);
        uneven[7] = [2, 4];
        for places in [places(4, 4), places(4, 1), places(6, 3), places(5, 2), uneven] {
            let levels = Levels::plan(1, &places);
            assert_eq!(levels.0.len(), 1);
            assert_eq!((levels.0[0].peers.len(), levels.0[0].owners()), (places.len(), &[1][..]));
        }
    }
}
