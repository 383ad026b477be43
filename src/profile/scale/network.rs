//! What connects the ranks: bandwidths and latencies, and how long an exchange takes with them.

use serde::{Deserialize, Serialize};

use super::ScaleError;

/// Latency of a ring algorithm, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ring {
    /// Latency of a call.
    pub base: f64,
    /// Latency of a step between neighbours in one node.
    pub within: f64,
    /// Latency of a step from node to node.
    pub between: f64,
}

/// Latency of a tree of nodes, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tree {
    /// Latency of a call.
    pub base: f64,
    /// Latency of each level.
    pub level: f64,
    /// Latency for each node.
    pub node: f64,
}

/// A network, as a file in TOML or JSON describes it. Seconds, bytes per second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// For the reader.
    #[serde(default)]
    pub name: String,
    /// Ranks on one machine.
    pub ranks_per_node: usize,
    /// Bandwidth of one rank to the others on its machine.
    pub within: f64,
    /// Bandwidth of one rank's network card.
    pub between: f64,
    /// Latencies of the algorithms for large messages; the least counts.
    pub latency: Vec<Ring>,
    /// Latency of small messages; as for large ones if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub small: Option<Ring>,
    /// Latency between nodes of a tree, if there is such an algorithm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<Tree>,
    /// The share of `between` that is reached, by the number of nodes; interpolated on the logarithm of that number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub efficiency: Vec<(usize, f64)>,
    /// Standard deviation of the time that a rank computes, as a share of it.
    pub jitter: f64,
    /// The share of the computing speed that an exchange takes while it overlaps with the computation.
    pub steal: f64,
}

impl Network {
    /// Names of the networks that are built in.
    pub const BUILT_IN: [&str; 2] = ["h100-ib400", "local-mpi"];

    /// A network that is built in.
    pub fn built_in(name: &str) -> Option<Self> {
        match name {
            "h100-ib400" => Some(Self::h100_ib400()),
            "local-mpi" => Some(Self::local_mpi()),
            _ => None,
        }
    }

    /// Machines of eight GPUs with NVLink and a card of 400 Gb/s InfiniBand for each GPU, connected by NCCL.
    ///
    /// Latencies are those of NCCL's own table (`tuning.cc` of 2.30): its protocols Simple and LL128, LL for
    /// small messages, and PAT for the tree. Within a node 341 to 360 GB/s were reported for H100 (NCCL's issues 1047
    /// and 1083). The efficiency between nodes is that of 360, 345, 320, 300, 280 and 260 GB/s at 4 to 128 nodes of
    /// 400 GB/s (issue 1229), and an assumption for 256. Jitter and steal are assumptions.
    fn h100_ib400() -> Self {
        Self {
            name: "h100-ib400".to_owned(),
            ranks_per_node: 8,
            within: 350e9,
            between: 50e9,
            latency: vec![
                Ring { base: 8.4e-6, within: 3.4e-6, between: 14e-6 },
                Ring { base: 14e-6, within: 1.9e-6, between: 4e-6 },
            ],
            small: Some(Ring { base: 6.6e-6, within: 1e-6, between: 2.7e-6 }),
            tree: Some(Tree { base: 8e-6, level: 4e-6, node: 2.8e-6 }),
            efficiency: vec![(4, 0.9), (8, 0.8625), (16, 0.8), (32, 0.75), (64, 0.7), (128, 0.65), (256, 0.6)],
            jitter: 0.005,
            steal: 0.1,
        }
    }

    /// Ranks of one machine that MPI connects through its memory.
    ///
    /// 1.4 GB/s is what MPICH 5 reached in an all-gather of 564 MB on two ranks that shared two busy cores. Latency,
    /// jitter and steal (a copy keeps a core busy) are assumptions. Any machine differs, so measure.
    fn local_mpi() -> Self {
        Self {
            name: "local-mpi".to_owned(),
            ranks_per_node: 1024,
            within: 1.4e9,
            between: 1.4e9,
            latency: vec![Ring { base: 20e-6, within: 5e-6, between: 5e-6 }],
            small: None,
            tree: None,
            efficiency: Vec::new(),
            jitter: 0.02,
            steal: 1.0,
        }
    }

    /// Reads a description, in JSON if it begins with `{`, else in TOML.
    ///
    /// # Errors
    /// If it is neither, or a number is impossible.
    pub fn parse(text: &str) -> Result<Self, ScaleError> {
        let parsed = match text.trim_start().starts_with('{') {
            true => serde_json::from_str::<Self>(text).map_err(|error| error.to_string()),
            false => toml::from_str(text).map_err(|error| error.to_string()),
        };
        let network = parsed.map_err(|problem| ScaleError::Network { problem })?;
        match network.problem() {
            None => Ok(network),
            Some(problem) => Err(ScaleError::Network { problem }),
        }
    }

    /// What is impossible in it.
    fn problem(&self) -> Option<String> {
        let rings = self.latency.iter().chain(&self.small).flat_map(|ring| [ring.base, ring.within, ring.between]);
        let tree = self.tree.iter().flat_map(|tree| [tree.base, tree.level, tree.node]);
        let positive = [("within", self.within), ("between", self.between)];
        let share = |share: f64| share > 0.0 && share <= 1.0;
        if self.ranks_per_node == 0 {
            return Some("ranks_per_node must be at least 1".to_owned());
        }
        if self.latency.is_empty() {
            return Some("latency needs at least one entry".to_owned());
        }
        if let Some((name, value)) = positive.into_iter().find(|(_, value)| value.is_nan() || *value <= 0.0) {
            return Some(format!("{name} = {value} must be a number of bytes per second above 0"));
        }
        let mut seconds = rings.chain(tree).chain([self.jitter, self.steal]);
        if let Some(value) = seconds.find(|value| !value.is_finite() || *value < 0.0) {
            return Some(format!("{value} as a latency, jitter or steal must be a number of at least 0"));
        }
        let ascending = self.efficiency.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let shares = self.efficiency.iter().all(|(nodes, value)| *nodes > 0 && share(*value));
        (!ascending || !shares)
            .then(|| "efficiency must be pairs [nodes, share] with rising nodes and shares in (0, 1]".to_owned())
    }

    /// Ranks on a node, and the number of nodes.
    pub fn nodes(&self, ranks: usize) -> (usize, usize) {
        (self.ranks_per_node.min(ranks), ranks.div_ceil(self.ranks_per_node))
    }

    /// Bandwidth of one rank from node to node.
    fn card(&self, nodes: usize) -> f64 {
        let at = (nodes as f64).log2();
        let points = || self.efficiency.iter().map(|&(nodes, share)| ((nodes as f64).log2(), share));
        let before = points().take_while(|(place, _)| *place <= at).last();
        let after = points().find(|(place, _)| *place > at);
        let share = match (before, after) {
            (Some((low, a)), Some((high, b))) => a + (b - a) * (at - low) / (high - low),
            (Some((_, share)), None) | (None, Some((_, share))) => share,
            (None, None) => 1.0,
        };
        self.between * share
    }

    /// The least latency of a ring with these numbers of steps within nodes and between them.
    fn ring(&self, size: Size, within: usize, between: usize) -> f64 {
        let of = |ring: &Ring| ring.base + within as f64 * ring.within + between as f64 * ring.between;
        match (size, &self.small) {
            (Size::Small, Some(small)) => of(small),
            _ => self.latency.iter().map(of).fold(f64::INFINITY, f64::min),
        }
    }

    /// Seconds of a call on all ranks at once, in which ranks of different nodes exchange directly. Each rank starts
    /// (all-gather) or ends (exchange) with its part of `bytes`.
    pub fn one_level(&self, call: Call, bytes: f64, size: Size, ranks: usize) -> f64 {
        if ranks < 2 {
            return 0.0;
        }
        let (local, nodes) = self.nodes(ranks);
        let part = bytes / ranks as f64;
        let (within, between) = match call {
            // The ring crosses from node to node, once for each of the node's cards.
            Call::Gather if nodes > 1 => {
                (part * (ranks - 1) as f64, bytes * (nodes - 1) as f64 / (nodes * local) as f64)
            }
            Call::Gather => (part * (ranks - 1) as f64, 0.0),
            Call::Exchange => (part * (local - 1) as f64, part * (ranks - local) as f64),
        };
        let seconds = (within / self.within).max(if nodes > 1 { between / self.card(nodes) } else { 0.0 });
        self.ring(size, ranks - nodes, nodes - 1) + seconds
    }

    /// Seconds of a call within nodes and then between nodes (exchange), or the other way round (all-gather): both take
    /// the same time.
    pub fn two_level(&self, bytes: f64, size: Size, ranks: usize) -> f64 {
        if ranks < 2 {
            return 0.0;
        }
        let (local, nodes) = self.nodes(ranks);
        let share = |count: usize| (count - 1) as f64 / count as f64;
        let within = if local > 1 { self.ring(size, local - 1, 0) + share(local) * bytes / self.within } else { 0.0 };
        if nodes == 1 {
            return within;
        }
        let tree = self.tree.map(|tree| tree.base + (nodes as f64).log2() * tree.level + nodes as f64 * tree.node);
        let latency = self.ring(size, 0, nodes - 1).min(tree.unwrap_or(f64::INFINITY));
        within + latency + share(nodes) * bytes / local as f64 / self.card(nodes)
    }
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Each rank gets the parts of all.
    Gather,
    /// Each rank gets, from all ranks, what belongs to its part.
    Exchange,
}

/// Whether latency is all that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Some kilobytes.
    Small,
    /// More.
    Large,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A network that takes no time.
    pub(crate) fn ideal() -> Network {
        Network {
            name: "ideal".to_owned(),
            ranks_per_node: 4,
            within: f64::INFINITY,
            between: f64::INFINITY,
            latency: vec![Ring { base: 0.0, within: 0.0, between: 0.0 }],
            small: None,
            tree: None,
            efficiency: Vec::new(),
            jitter: 0.0,
            steal: 0.0,
        }
    }

    /// Computed by hand: 4 ranks in two nodes of 2, 800 bytes, 100 bytes/s within and 10 bytes/s between.
    #[test]
    fn calls_take_latency_and_the_time_of_their_bytes() {
        let network = Network {
            ranks_per_node: 2,
            within: 100.0,
            between: 10.0,
            latency: vec![Ring { base: 1.0, within: 0.5, between: 0.25 }],
            ..ideal()
        };
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
        // Two steps within nodes and one between: 2.25 s. Each rank gets 400 bytes of another node, of which its card
        // carries 200 in a ring, and all 400 in an exchange.
        close(network.one_level(Call::Gather, 800.0, Size::Large, 4), 2.25 + 400.0 / 2.0 / 10.0);
        close(network.one_level(Call::Exchange, 800.0, Size::Large, 4), 2.25 + 400.0 / 10.0);
        // Within: 1.5 s and half of 800 bytes; between: 1.25 s and half of 400 bytes.
        close(network.two_level(800.0, Size::Large, 4), 1.5 + 4.0 + 1.25 + 20.0);
        close(network.two_level(800.0, Size::Large, 2), 1.5 + 4.0);
        close(network.one_level(Call::Exchange, 800.0, Size::Large, 2), 1.5 + 4.0);
        close(network.two_level(800.0, Size::Large, 1), 0.0);
        let tree = Network { tree: Some(Tree { base: 0.1, level: 0.2, node: 0.05 }), ..network.clone() };
        close(tree.two_level(800.0, Size::Large, 4), 1.5 + 4.0 + 0.1 + 0.2 + 0.1 + 20.0);
        let small = Network { small: Some(Ring { base: 0.5, within: 0.0, between: 0.0 }), ..network };
        close(small.two_level(0.0, Size::Small, 4), 1.0);
    }

    #[test]
    fn efficiency_is_interpolated_between_numbers_of_nodes() {
        let network = Network { between: 100.0, efficiency: vec![(4, 0.8), (16, 0.6)], ..ideal() };
        let found = [1, 4, 8, 16, 64].map(|nodes| network.card(nodes).round());
        assert_eq!(found, [80.0, 80.0, 70.0, 60.0, 60.0]);
    }

    #[test]
    fn descriptions_are_read_and_checked() {
        for name in Network::BUILT_IN {
            let network = Network::built_in(name).unwrap();
            assert_eq!((network.name.as_str(), network.problem()), (name, None));
            let text = serde_json::to_string(&network).unwrap();
            assert_eq!(Network::parse(&text).unwrap(), network);
        }
        let text = "ranks_per_node = 8\nwithin = 1e9\nbetween = 5e8\njitter = 0.01\nsteal = 0\n\
                    latency = [{ base = 1e-5, within = 1e-6, between = 2e-6 }]\nefficiency = [[2, 0.9]]\n";
        let network = Network::parse(text).unwrap();
        assert_eq!((network.ranks_per_node, network.efficiency.as_slice()), (8, &[(2, 0.9)][..]));
        for (from, to, problem) in [
            ("1e9", "0", "within = 0"),
            ("= 8", "= 0", "ranks_per_node"),
            ("[{ base = 1e-5, within = 1e-6, between = 2e-6 }]", "[]", "at least one"),
            ("1e-5", "-1.0", "-1"),
            ("0.9", "1.5", "shares in (0, 1]"),
            ("jitter", "judder", "judder"),
        ] {
            let error = Network::parse(&text.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
