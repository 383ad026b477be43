//! Places buffers in one block of memory: two may share bytes if they are never live at the same time.

use std::ops::Range;

/// Buffers start at multiples of this, so that every vector access and every bulk copy is aligned.
pub(super) const ALIGNMENT: usize = 256;

/// A buffer to place: its size, and the moments at which it is live.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub bytes: usize,
    pub span: Range<usize>,
}

/// An offset for each request, and the size of the block.
///
/// Greedy by size: the largest buffer first, each at the lowest offset that is free during its span (Pisarchyk and Lee,
/// "Efficient Memory Management for Deep Neural Net Inference", 2020, section 5.2).
pub(super) fn place(requests: &[Request]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(requests[index].bytes));
    let mut offsets = vec![0; requests.len()];
    let mut placed: Vec<usize> = Vec::new(); // by offset
    let mut total = 0;
    for index in order {
        let Request { bytes, span } = &requests[index];
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        let mut offset = 0;
        for &other in &placed {
            let Request { bytes: other_bytes, span: other_span } = &requests[other];
            let apart = other_span.end <= span.start || span.end <= other_span.start;
            if apart {
                continue;
            }
            if offset + bytes <= offsets[other] {
                break;
            }
            offset = offset.max(offsets[other] + other_bytes.next_multiple_of(ALIGNMENT));
        }
        offsets[index] = offset;
        total = total.max(offset + bytes);
        let at = placed.partition_point(|&other| offsets[other] <= offset);
        placed.insert(at, index);
    }
    (offsets, total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Random};

    #[test]
    fn buffers_in_use_together_never_overlap() {
        let mut random = Random::new(1, Purpose::Test, 0, 0);
        let requests: Vec<Request> = (0..200)
            .map(|_| {
                let start = random.below(100) as usize;
                Request { bytes: random.below(5000) as usize, span: start..start + 1 + random.below(30) as usize }
            })
            .collect();
        let (offsets, total) = place(&requests);
        for a in 0..requests.len() {
            assert!(offsets[a].is_multiple_of(ALIGNMENT) && offsets[a] + requests[a].bytes <= total);
            for b in 0..a {
                let together =
                    requests[a].span.start < requests[b].span.end && requests[b].span.start < requests[a].span.end;
                let overlap =
                    offsets[a] < offsets[b] + requests[b].bytes && offsets[b] < offsets[a] + requests[a].bytes;
                assert!(!(together && overlap), "{:?} {:?}", requests[a], requests[b]);
            }
        }
        let everything: usize = requests.iter().map(|request| request.bytes).sum();
        assert!(total * 3 < everything, "hardly anything is shared: {total} of {everything}");
    }
}
