//! Whole runs, on ranks that are threads.

use std::fs;
use std::path::Path;

use super::*;
use crate::data::testing::{Archive, png};
use crate::device::Cpu;
use crate::group::{Group, Threads, Watched};
use crate::model::Loss;
use crate::train::{Options, described};

fn options(folder: &Path, data: &Archive) -> Options {
    let vocab = folder.join("vocab.txt");
    fs::write(&vocab, "[PAD]\n[UNK]\nodd\nname\n0\n1\n2\n3\n4\n5\n6\n7\n").unwrap();
    let text = format!(
        "data = ['{}']\ntokenizer = '{}'\norder = 'global'\nbatch = 8\nmicro_batches = 2\nsteps = 3\nlog_every = 1\n\
         lr = 1e-3\nloader_threads = 1\nimage_size = 16\npatch_size = 4\nvision_layers = 1\nvision_width = 32\n\
         vision_heads = 2\ntext_layers = 1\ntext_width = 32\ntext_heads = 2\nembed_dim = 16\n",
        data.file(),
        vocab.display()
    );
    toml::from_str(&text).unwrap()
}

/// Eight samples, of which the fifth alone has the token `odd`.
fn data() -> Archive {
    let mut archive = Archive::default();
    for number in 0..8 {
        let caption = if number == 4 { "odd name".to_owned() } else { format!("name {number}") };
        archive.add(&format!("{number}.png"), &png(20, 20, number)).add(&format!("{number}.txt"), caption.as_bytes());
    }
    archive
}

/// How a run ends on rank 0.
fn run(ranks: usize, options: &Options, out: &Path) -> Result<Ended, TrainError> {
    let (options, out) = (options.clone(), out.to_owned());
    end(ranks, false, move |group| Plan::start_in(group, options.clone(), Some(&out)).unwrap())
}

/// How a plan ends on rank 0. If it `stops`, the user asks for that after the last step.
fn end(
    ranks: usize,
    stops: bool,
    plan: impl Fn(Arc<dyn Group>) -> Plan + Clone + Send + 'static,
) -> Result<Ended, TrainError> {
    let start = |group: Threads| {
        let plan = plan.clone();
        std::thread::spawn(move || {
            let group: Arc<dyn Group> = {
                let place = group.place();
                Arc::new(Watched::new(Arc::new(group), place, 1))
            };
            let stop = AtomicBool::new(false);
            let mut report = |progress: Progress| {
                if let Progress::Step { done, total } = progress {
                    stop.store(stops && done == total, Ordering::Relaxed);
                }
            };
            (train(Arc::new(Cpu::default()), plan(group.clone()), &stop, &mut report), group)
        })
    };
    let ranks: Vec<_> = Threads::group(ranks).into_iter().map(start).collect();
    let mut ranks: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
    let ended = ranks.remove(0).0;
    assert!(ranks.iter().all(|(other, _)| other.is_ok() == ended.is_ok()), "all ranks end alike");
    ended
}

/// The summary comes with the evaluation, when the run is resumed.
#[test]
fn a_stop_ends_the_last_evaluation() {
    let (folder, data) = (tempfile::tempdir().unwrap(), data());
    let options = options(folder.path(), &data);
    let options = Options { eval_data: options.data.clone(), ..options };
    for ranks in [1, 2] {
        let out = folder.path().join(ranks.to_string());
        let start = {
            let (options, out) = (options.clone(), out.clone());
            move |group| Plan::start_in(group, options.clone(), Some(&out)).unwrap()
        };
        let ended = end(ranks, true, start).unwrap();
        assert!(matches!(ended, Ended::Interrupted { step: 3, .. }), "{ended:?}");
        assert!(!out.join("summary.json").exists());
        let metrics = out.join("metrics.jsonl");
        let resume = move |group| Plan::resume_in(group, &out, Options::default()).unwrap();
        let ended = end(ranks, false, resume).unwrap();
        let Ended::Finished(summary) = &ended else { panic!("{ended:?}") };
        assert!(summary.zero_shot_top1.is_some());
        let text = fs::read_to_string(metrics).unwrap();
        let last: Metrics = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!((last.step, last.zero_shot_top1), (3, summary.zero_shot_top1));
    }
}

#[test]
fn metrics_tell_the_slowest_of_two_ranks() {
    let (folder, data) = (tempfile::tempdir().unwrap(), data());
    let out = folder.path().join("run");
    run(2, &options(folder.path(), &data), &out).unwrap();
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines: Vec<Metrics> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    for line in lines {
        let (slowest, median) = (line.slowest_compute.unwrap(), line.median_compute.unwrap());
        assert!(line.slowest_rank.unwrap() < 2 && slowest >= median && median > 0.0, "{line:?}");
        assert!(line.slowest_data_rank.unwrap() < 2 && line.slowest_data_wait.unwrap() >= line.data_wait, "{line:?}");
    }
}

/// The number of the token `odd`.
const ODD: usize = 2;

/// Weights in which the row of the token `odd` is not a number.
fn odd_weights(options: &Options, path: &Path) {
    let base = described(options).unwrap().model;
    let model = Settings::resolve(options.clone(), base, 12).unwrap().model;
    let flip = Flip::with_loss(&model, Loss::Infonce, true);
    let mut values = flip.layout().initial_values(1);
    let tokens = flip.layout().specs().iter().find(|spec| spec.name == "token_embedding.weight").unwrap();
    let width = model.text.width;
    values[tokens.offset + ODD * width..][..width].fill(f32::NAN);
    checkpoint::save_weights(path, &model, Loss::Infonce, flip.layout(), &values).unwrap();
}

/// The sample whose embedding is not a number is named, whichever rank has it.
#[test]
fn a_sample_that_is_not_finite_is_named_with_its_rank() {
    let (folder, data) = (tempfile::tempdir().unwrap(), data());
    let weights = folder.path().join("step-00000000.safetensors");
    let options = options(folder.path(), &data);
    odd_weights(&options, &weights);
    let mut found = Vec::new();
    for (ranks, micro_batches, seed) in [(1, 1, 0), (1, 2, 0), (2, 2, 0), (2, 2, 1), (2, 4, 2), (4, 4, 3)] {
        let out = folder.path().join(format!("{ranks}-{micro_batches}-{seed}"));
        let options = Options {
            init_from: Some(weights.clone()),
            micro_batches: Some(micro_batches),
            seed: Some(seed),
            // An outcome is read at once, or while the next step is computed.
            log_every: Some(if seed == 0 { 1 } else { 100 }),
            ..options.clone()
        };
        let said = run(ranks, &options, &out).unwrap_err().to_string();
        let report: serde_json::Value = serde_json::from_slice(&fs::read(out.join("diverged.json")).unwrap()).unwrap();
        let samples = report["samples"].as_array().unwrap();
        let odd = samples.iter().position(|name| name.as_str().unwrap().ends_with(".tar:4")).unwrap();
        assert_eq!(samples.len(), 8);
        let rank = odd / (8 / ranks);
        let name = match ranks {
            1 => ".tar:4".to_owned(),
            _ => format!(".tar:4 (rank {rank})"),
        };
        assert!(
            said.contains("the loss of step 1 is NaN: training has diverged. The embeddings of 1 of its 8"),
            "{said}"
        );
        assert!(said.contains(&format!("{name} (all are in ")), "{said}");
        assert_eq!(report["not_finite"].as_array().unwrap().len(), 1);
        assert!(report["not_finite"][0].as_str().unwrap().ends_with(&name), "{report}");
        found.push(rank);
    }
    assert!(found.iter().any(|rank| *rank > 0), "another rank than the first has it: {found:?}");
}
