//! Times of calls, captured or not.

use flipk::device::cuda::EmulatorOptions;
use flipk::device::{Buffer, Captured, Device, Stopwatch};
use half::bf16;

use crate::harness::gpu;

#[test]
fn a_stopwatch_shows_the_time_of_the_calls_between() {
    let (device, _) = gpu::<bf16>(EmulatorOptions::default());
    const LEN: usize = 1 << 20;
    let from = Buffer::<_, f32>::new(&*device, LEN, "a test").unwrap();
    let mut into = Buffer::<_, f32>::new(&*device, LEN, "a test").unwrap();
    let mut stopwatch = Stopwatch::new(&*device).unwrap();
    let mut seconds = |copies: usize, captured: &mut Captured| {
        let begun = device.record_event().unwrap();
        let calls = || {
            stopwatch.start(&*device)?;
            (0..copies).try_for_each(|_| device.copy(into.view_mut(), from.view()))?;
            stopwatch.stop(&*device)
        };
        captured.run(&*device, calls).unwrap();
        let ended = device.record_event().unwrap();
        let found = stopwatch.seconds_async(&*device).unwrap()().unwrap();
        let all = device.seconds(&begun, &ended).unwrap();
        let [found] = found[..] else { panic!("{found:?}") };
        (f64::from(found), all)
    };
    let (mut one, mut many) = (Captured::default(), Captured::default());
    for _ in 0..3 {
        let ((short, _), (long, all)) = (seconds(1, &mut one), seconds(40, &mut many));
        // The clock may advance in steps of a microsecond.
        assert!(long > 5.0 * short && long <= all + 2e-6, "{short} s, {long} s of {all} s");
    }
    assert!(one.is_captured() && many.is_captured());
}
