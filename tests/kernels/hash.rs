//! The fingerprints by which results of matrix products are compared.

use flipk::device::cuda::hash::{Fingerprint, SCRATCH_BYTES, fingerprint};
use flipk::device::cuda::{Driver, Emulated, EmulatorOptions, Gpu};
use flipk::random::{Purpose, Random};

use crate::harness::real;

/// As in the kernel, word by word.
fn reference(bytes: &[u8]) -> Fingerprint {
    let mix = |x: u64| {
        let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    };
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(16), 0);
    let words: Vec<u32> = padded.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
    let hash = (words.iter().zip(0..)).fold(0u64, |sum, (word, at)| sum.wrapping_add(mix(at << 32 | u64::from(*word))));
    let varied = words.chunks(4).flat_map(|quad| quad.windows(2)).filter(|pair| pair[1] != 0 && pair[1] != pair[0]);
    Fingerprint { hash, varied: varied.count() as u64 }
}

fn on_gpu(bytes: &[u8], order: Option<u64>) -> Fingerprint {
    let driver: Box<dyn Driver> = match real() {
        true => Box::new(Gpu::new(0).unwrap()),
        false => Box::new(Emulated::new(EmulatorOptions { order, ..EmulatorOptions::default() })),
    };
    let [buffer, scratch] = [bytes.len(), SCRATCH_BYTES].map(|len| driver.allocate(len).unwrap().unwrap());
    driver.upload(buffer, bytes).unwrap();
    let found = fingerprint(&*driver, buffer, bytes.len(), scratch).unwrap();
    // A second call starts from nothing again.
    assert_eq!(fingerprint(&*driver, buffer, bytes.len(), scratch).unwrap(), found);
    [buffer, scratch].into_iter().for_each(|address| driver.free(address));
    found
}

fn random_bytes(len: usize) -> Vec<u8> {
    let mut random = Random::new(5, Purpose::Test, 0, len as u64);
    (0..len).map(|_| random.below(256) as u8).collect()
}

#[test]
fn the_kernel_computes_the_reference_in_any_order() {
    for len in [1, 2, 15, 16, 17, 4095, 4096, 70_002, 5_000_000] {
        let bytes = random_bytes(len);
        for order in [None, Some(1), Some(2)] {
            assert_eq!(on_gpu(&bytes, order), reference(&bytes), "{len} bytes");
        }
    }
}

/// One bit anywhere, two words swapped, or a row moved.
#[test]
fn any_difference_shows() {
    let bytes = random_bytes(100_000);
    let hash = |bytes: &[u8]| on_gpu(bytes, None).hash;
    let expected = hash(&bytes);
    for at in [0, 1, 49_999, 65_536, 99_999] {
        let mut other = bytes.clone();
        other[at] ^= 1;
        assert_ne!(hash(&other), expected, "byte {at}");
    }
    let mut swapped = bytes.clone();
    (0..4).for_each(|byte| swapped.swap(byte, 50_000 + byte));
    assert_ne!(hash(&swapped), expected);
    let mut rotated = bytes.clone();
    rotated.rotate_left(400);
    assert_ne!(hash(&rotated), expected);
}

#[test]
fn data_without_information_is_recognised() {
    let len = 64 * 1024;
    let telling = |bytes: &[u8]| on_gpu(bytes, None).is_telling(bytes.len());
    assert!(telling(&random_bytes(len)));
    assert!(!telling(&vec![0; len]), "zeros");
    assert!(!telling(&1.5f32.to_le_bytes().repeat(len / 4)), "a constant");
    let mut sparse = vec![0; len];
    sparse[..len / 8].copy_from_slice(&random_bytes(len / 8));
    assert!(!telling(&sparse), "an eighth");
}
