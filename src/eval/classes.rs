//! Which class each sample belongs to.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::EvalError;
use super::lists::{decoration, entries, escaped};
use super::numbers::Numbers;
use crate::data::text::{Blank, list_some, shorten};
use crate::data::{Dataset, Label};

/// Class names by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassNames {
    path: PathBuf,
    /// Empty where the file has a blank line.
    names: Vec<String>,
}

/// How a caption that is a number is read as a label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Labels {
    /// A name or a number, whichever fits all samples
    #[default]
    Auto,
    /// The name of a class
    Names,
    /// The number of a class, from 0
    Numbers,
}

/// The classes of a data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classes {
    /// Names by number; an empty name means that the number has no class.
    names: Vec<String>,
    /// The numbers of the correct classes, by sample; none if the sample has no readable label.
    of_sample: Vec<Vec<u32>>,
    notes: Vec<String>,
}

impl ClassNames {
    /// One name per line. A blank line counts, but is not a class.
    ///
    /// # Errors
    /// A file that cannot be read, is not UTF-8, has no lines, or is code instead of a list.
    pub fn from_file(path: &Path) -> Result<Self, EvalError> {
        Ok(Self { path: path.to_owned(), names: entries(path, Blank::Keep)? })
    }

    /// Warnings about the list.
    fn notes(&self) -> Vec<String> {
        let mut lines: HashMap<&str, Vec<usize>> = HashMap::new();
        for (line, name) in (1..).zip(&self.names) {
            lines.entry(name).or_default().push(line);
        }
        let path = self.path.display();
        let blank = lines.remove("").unwrap_or_default();
        let mut twice: Vec<(&str, Vec<usize>)> = lines.into_iter().filter(|(_, lines)| lines.len() > 1).collect();
        twice.sort_by_key(|(_, lines)| lines[0]);
        let mut notes = Vec::new();
        if let Some(what) = decoration(&self.names) {
            notes.push(format!(
                "warning: the class names are the lines of {path} as they stand, but {what}; write the names alone, one \
                 per line"
            ));
        }
        if !twice.is_empty() {
            let count = twice.len();
            let lines = |lines: &[usize]| lines.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
            let names = list_some(twice.iter().map(|(name, at)| format!("{:?} (lines {})", shorten(name), lines(at))));
            notes.push(format!(
                "warning: {count} names in {path} occur more than once: {names}. Of equal names the first is predicted, \
                 so images of the later ones count as wrong"
            ));
        }
        if !blank.is_empty() {
            let lines = list_some(blank.iter().map(usize::to_string));
            notes.push(format!("warning: blank lines in {path} keep their numbers and are not classes: {lines}"));
        }
        notes
    }
}

/// The classes that one caption may mean.
#[derive(Clone, Copy)]
struct Reading {
    name: Option<u32>,
    number: Option<u32>,
}

impl Classes {
    /// Finds the class of every sample. `names`: `None` for the data set's distinct captions.
    ///
    /// A caption is the name of its class, or its number. Which of the two is decided over all samples; if both fit and
    /// differ, `labels` must decide. The class number of a `.cls` member is always a number. If a sample has several
    /// captions, each one that is a class is correct.
    ///
    /// # Errors
    /// A sample of no class, class numbers without names, captions that fit as names and as numbers.
    pub fn from_dataset(dataset: &Dataset, names: Option<&ClassNames>, labels: Labels) -> Result<Self, EvalError> {
        let read: Vec<Option<Label>> =
            (0..dataset.len() as u64).into_par_iter().map(|sample| dataset.label(sample).ok()).collect();
        let name = |sample: usize| dataset.name(sample as u64);
        match names {
            Some(names) => Self::named(&read, names, labels, name),
            None => Self::distinct(&read, name),
        }
    }

    /// Names by number; an empty name means that the number has no class.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The correct classes of a sample.
    pub fn of_sample(&self, sample: u64) -> &[u32] {
        self.of_sample.get(sample as usize).map_or(&[], Vec::as_slice)
    }

    /// Warnings about names and labels, one line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn distinct(read: &[Option<Label>], name: impl Fn(usize) -> String) -> Result<Self, EvalError> {
        let mut numbers = Numbers::new();
        let mut this = Self::default();
        for (sample, label) in read.iter().enumerate() {
            let captions = match label {
                Some(Label::Number(_)) => return Err(EvalError::NoNames { sample: name(sample) }),
                Some(Label::Captions(captions)) => captions.as_slice(),
                None => &[],
            };
            let classes = captions.iter().map(|caption| {
                let (number, new) = numbers.of(caption.as_str());
                if new {
                    this.names.push(caption.clone());
                }
                number as u32
            });
            this.of_sample.push(classes.collect());
        }
        if !this.names.is_empty() && this.names.iter().all(|name| name.parse::<u64>().is_ok()) {
            this.notes.push(format!(
                "warning: the captions of the evaluation data are numbers, and their digits are taken as class names: {}. \
                 Give the names with --classes",
                list_some(this.names.iter().map(|name| format!("{name:?}")))
            ));
        }
        Ok(this)
    }

    fn named(
        read: &[Option<Label>],
        classes: &ClassNames,
        labels: Labels,
        name: impl Fn(usize) -> String,
    ) -> Result<Self, EvalError> {
        let names = &classes.names;
        let mut by_name: HashMap<&str, u32> = HashMap::new();
        for (number, name) in names.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            by_name.entry(name).or_insert(number as u32);
        }
        let exists = |number: usize| names.get(number).is_some_and(|name| !name.is_empty()).then_some(number as u32);
        let reading = |caption: &str| Reading {
            name: by_name.get(caption).copied(),
            number: caption.parse().ok().and_then(exists),
        };
        let readings: Vec<Vec<Reading>> = read
            .par_iter()
            .map(|label| match label {
                Some(Label::Captions(captions)) => captions.iter().map(|caption| reading(caption)).collect(),
                Some(Label::Number(number)) => vec![Reading { name: None, number: exists(*number) }],
                None => Vec::new(),
            })
            .collect();
        let captioned = || {
            let samples = read.iter().zip(&readings).enumerate();
            samples.filter(|(_, (label, _))| matches!(label, Some(Label::Captions(_))))
        };
        let fit = |fits: fn(&Reading) -> bool| captioned().all(|(_, (_, readings))| readings.iter().any(fits));
        let labels = match labels {
            Labels::Auto if fit(|reading| reading.name.is_some()) && fit(|reading| reading.number.is_some()) => {
                // The same class either way is not ambiguous.
                let same = |reading: &Reading| match (reading.name, reading.number) {
                    (Some(name), Some(number)) => names[name as usize] == names[number as usize],
                    _ => true,
                };
                let differ = captioned().find(|(_, (_, readings))| !readings.iter().all(same));
                if let Some((sample, (Some(label), readings))) = differ {
                    let at = readings.iter().position(|reading| !same(reading)).unwrap_or_default();
                    return Err(EvalError::Ambiguous {
                        sample: name(sample),
                        caption: label.captions().get(at).cloned().unwrap_or_default(),
                        line: readings[at].name.map_or(0, |number| number + 1),
                        class: readings[at].number.map(|number| names[number as usize].clone()).unwrap_or_default(),
                    });
                }
                Labels::Numbers
            }
            labels => labels,
        };
        let chosen = |reading: &Reading| match labels {
            Labels::Auto => reading.name.or(reading.number),
            Labels::Names => reading.name,
            Labels::Numbers => reading.number,
        };
        let readings_of = &readings;
        let class_of = |((sample, label), readings): ((usize, &Option<Label>), &Vec<Reading>)| {
            let found: Vec<u32> = match label {
                Some(Label::Number(_)) => readings.iter().filter_map(|reading| reading.number).collect(),
                _ => readings.iter().filter_map(chosen).collect(),
            };
            match label {
                Some(label) if found.is_empty() => {
                    let from_one = readings_of.iter().flatten().all(|reading| reading.number != Some(0));
                    Err(no_class(name(sample), label, names, &by_name, labels, from_one))
                }
                _ => Ok(found),
            }
        };
        let of_sample = read.iter().enumerate().zip(&readings).map(class_of).collect::<Result<_, _>>()?;
        Ok(Self { names: names.clone(), of_sample, notes: classes.notes() })
    }
}

/// The error for a label that is not a class.
fn no_class(
    sample: String,
    label: &Label,
    names: &[String],
    by_name: &HashMap<&str, u32>,
    labels: Labels,
    from_one: bool,
) -> EvalError {
    let number = match label {
        Label::Number(number) => Some(*number),
        Label::Captions(captions) => {
            captions.iter().find_map(|caption| caption.parse().ok()).filter(|_| labels != Labels::Names)
        }
    };
    if let Some(number) = number {
        let problem = match number < names.len() {
            true => format!("line {} of the class names is blank", number + 1),
            false if number == names.len() && from_one => format!(
                "there are {number} class names, numbered from 0; if the data count from 1, put a blank line in front of \
                 the names"
            ),
            false => format!("there are {} class names, numbered from 0", names.len()),
        };
        return EvalError::NoNumber { sample, number, problem };
    }
    let caption = label.captions().first().cloned().unwrap_or_default();
    let problem = match labels {
        Labels::Numbers => "not a class number; say --labels names if the captions are names".to_owned(),
        _ => {
            let mut problem = format!("none of the {} class names{}", by_name.len(), nearest(&caption, names, by_name));
            if let Some(what) = decoration(names) {
                problem += &format!("; of the list of names, {what}");
            }
            problem
        }
    };
    EvalError::NoClass { sample, caption: shorten(&caption).into_owned(), problem }
}

/// Names the class that is most similar to a caption, if one is similar enough.
fn nearest(caption: &str, names: &[String], by_name: &HashMap<&str, u32>) -> String {
    /// Minimum similarity for one name to be a likely misspelling of the other.
    const ALIKE: f64 = 0.8;
    let lower = caption.to_lowercase();
    let near = names
        .iter()
        .filter(|name| !name.is_empty())
        .map(|name| (strsim::jaro_winkler(&lower, &name.to_lowercase()), name))
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| by_name[b.1.as_str()].cmp(&by_name[a.1.as_str()])));
    let near = match near {
        Some((_, near)) if near.to_lowercase() == lower => {
            format!("; {} differs from it only in capitals", escaped(near))
        }
        Some((similarity, near)) if similarity >= ALIKE => format!("; the nearest is {}", escaped(near)),
        _ => String::new(),
    };
    match caption.is_ascii() {
        true => near,
        false => format!(" ({}){near}", shorten(caption).escape_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> ClassNames {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        ClassNames { path: "names.txt".into(), ..ClassNames::from_file(file.path()).unwrap() }
    }

    fn captions(captions: &[&str]) -> Vec<Option<Label>> {
        captions.iter().map(|caption| Some(Label::Captions(vec![(*caption).to_owned()]))).collect()
    }

    fn classes(labels: &[Option<Label>], list: &str, how: Labels) -> Result<Classes, String> {
        let found = Classes::named(labels, &names(list), how, |sample| format!("sample {sample}"));
        found.map_err(|error| error.to_string())
    }

    fn first(classes: &Classes) -> Vec<u32> {
        classes.of_sample.iter().map(|classes| classes[0]).collect()
    }

    #[test]
    fn captions_are_names_or_numbers() {
        let of = |labels: &[&str]| first(&classes(&captions(labels), "red\ngreen\nblue\n", Labels::Auto).unwrap());
        assert_eq!(of(&["blue", "red", "blue"]), [2, 0, 2]);
        assert_eq!(of(&["2", "0", "001"]), [2, 0, 1]);
        assert_eq!(of(&["2", "red"]), [2, 0]);
        let numbers: Vec<_> = [2, 0].map(|number| Some(Label::Number(number))).to_vec();
        assert_eq!(first(&classes(&numbers, "red\ngreen\nblue\n", Labels::Auto).unwrap()), [2, 0]);
        let unread = classes(&[None, Some(Label::Number(1))], "red\ngreen\n", Labels::Auto).unwrap();
        assert_eq!((unread.of_sample(0), unread.of_sample(1)), (&[][..], &[1][..]));
    }

    #[test]
    fn any_caption_of_a_sample_may_be_its_class() {
        let two = Some(Label::Captions(["a picture", "blue", "red"].map(str::to_owned).to_vec()));
        assert_eq!(classes(&[two], "red\ngreen\nblue\n", Labels::Auto).unwrap().of_sample(0), [2, 0]);
    }

    #[test]
    fn a_name_that_occurs_twice_is_the_first_and_a_warning() {
        let list = "crane\nred\ncrane\nred\nblue\n";
        let found = classes(&captions(&["crane", "red", "blue"]), list, Labels::Auto).unwrap();
        assert_eq!(first(&found), [0, 1, 4]);
        assert!(found.notes()[0].contains("2 names in names.txt occur more than once: \"crane\" (lines 1, 3)"));
        // By number it is what the label says.
        assert_eq!(first(&classes(&captions(&["2", "0"]), list, Labels::Auto).unwrap()), [2, 0]);
    }

    #[test]
    fn a_blank_line_keeps_its_number_and_is_not_a_class() {
        let list = "red\n\nblue\n\n";
        let found = classes(&captions(&["2", "0"]), list, Labels::Auto).unwrap();
        assert_eq!((first(&found), found.names().len()), (vec![2, 0], 3));
        assert!(found.notes()[0].contains("blank lines") && found.notes()[0].ends_with(": 2"), "{:?}", found.notes());
        assert_eq!(first(&classes(&captions(&["blue"]), list, Labels::Auto).unwrap()), [2]);
        let error = classes(&captions(&["0", "1"]), list, Labels::Auto).unwrap_err();
        assert!(error.contains("sample 1 has the class number 1") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn lists_that_hold_more_than_names_and_labels_from_one_are_reported() {
        let list = "0 red\n1 green\n2 blue\n";
        let numbers = |numbers: &[usize]| numbers.iter().map(|&number| Some(Label::Number(number))).collect::<Vec<_>>();
        let found = classes(&numbers(&[0, 2]), list, Labels::Auto).unwrap();
        assert!(found.notes()[0].contains("its lines are numbered, such as \"1 green\""), "{:?}", found.notes());
        let error = classes(&captions(&["red"]), list, Labels::Auto).unwrap_err();
        assert!(error.contains("its lines are numbered"), "{error}");
        let error = |labels: &[usize]| classes(&numbers(labels), "red\ngreen\n", Labels::Auto).unwrap_err();
        assert!(error(&[1, 2]).contains("if the data count from 1, put a blank line"), "{}", error(&[1, 2]));
        assert!(!error(&[0, 2]).contains("count from 1"));
        assert_eq!(first(&classes(&numbers(&[1, 2]), "\nred\ngreen\n", Labels::Auto).unwrap()), [1, 2]);
    }

    #[test]
    fn digits_as_names_and_as_numbers_are_ambiguous_only_where_both_fit_and_differ() {
        let error = classes(&captions(&["0", "1", "2"]), "1\n2\n0\n", Labels::Auto).unwrap_err();
        assert!(error.contains("ambiguous") && error.contains("sample 0") && error.contains("--labels"), "{error}");
        assert!(error.contains("line 3") && error.contains("\"1\""), "{error}");
        let of = |labels: &[&str], list: &str, how| first(&classes(&captions(labels), list, how).unwrap());
        assert_eq!(of(&["0", "1", "2"], "1\n2\n0\n", Labels::Names), [2, 0, 1]);
        assert_eq!(of(&["0", "1", "2"], "1\n2\n0\n", Labels::Numbers), [0, 1, 2]);
        assert_eq!(of(&["0", "1", "2"], "0\n1\n2\n", Labels::Auto), [0, 1, 2]);
        // The number 3 is not a class here, so these are names.
        assert_eq!(of(&["1", "2", "3"], "1\n2\n3\n", Labels::Auto), [0, 1, 2]);
        assert_eq!(of(&["1999", "2001"], "1999\n2001\n", Labels::Auto), [0, 1]);
        // A class number of a .cls member is a number whatever the names are.
        let numbers: Vec<_> = [2, 0].map(|number| Some(Label::Number(number))).to_vec();
        assert_eq!(first(&classes(&numbers, "1\n2\n0\n", Labels::Auto).unwrap()), [2, 0]);
        let error = classes(&captions(&["red"]), "1\n2\n0\nred\n", Labels::Numbers).unwrap_err();
        assert!(error.contains("\"red\", which is not a class number") && error.contains("--labels names"), "{error}");
    }

    #[test]
    fn the_error_for_a_label_that_is_not_a_class_names_the_nearest() {
        let error = |label: &str, list: &str| classes(&captions(&[label]), list, Labels::Auto).unwrap_err();
        let case = error("red", "Red\nGreen\n");
        assert!(case.contains(
            "the caption \"red\", which is none of the 2 class names; \"Red\" differs from it only in capitals"
        ));
        assert!(error("tabby cat", "tench\ntabby, cat\n").contains("the nearest is \"tabby, cat\""));
        let hidden = error("tabby\u{a0}cat", "tench\ntabby cat\n");
        assert!(hidden.contains("\\u{a0}") && hidden.contains("the nearest is \"tabby cat\""), "{hidden}");
        let cyrillic = error("g\u{43e}ldfish", "goldfish\n");
        assert!(cyrillic.ends_with("(g\\u{43e}ldfish); the nearest is \"goldfish\""), "{cyrillic}");
        assert!(error("zebra", "cat\ndog\n").ends_with("none of the 2 class names"));
        let beyond = error("2", "cat\ndog\n");
        assert!(beyond.contains("class number 2") && beyond.contains("2 class names, numbered from 0"), "{beyond}");
    }

    #[test]
    fn names_are_read_whatever_editor_wrote_them() {
        let list = "\u{FEFF}cafe\u{301}\r\n red \r\n";
        assert_eq!(first(&classes(&captions(&["caf\u{e9}", "red"]), list, Labels::Auto).unwrap()), [0, 1]);
    }

    #[test]
    fn without_names_the_distinct_captions_are_the_classes() {
        let several = Some(Label::Captions(["red", "blue"].map(str::to_owned).to_vec()));
        let labels = [captions(&["red", "green", "red"]), vec![None, several]].concat();
        let found = Classes::distinct(&labels, |_| String::new()).unwrap();
        assert_eq!(found.names(), ["red", "green", "blue"]);
        assert_eq!(found.of_sample, [vec![0], vec![1], vec![0], vec![], vec![0, 2]]);
        assert!(found.notes().is_empty());
        let digits = Classes::distinct(&captions(&["0", "7", "0"]), |_| String::new()).unwrap();
        assert!(digits.notes()[0].contains("class names: \"0\", \"7\"") && digits.notes()[0].contains("--classes"));
        let error = Classes::distinct(&[Some(Label::Number(3))], |_| "sample 0".to_owned()).unwrap_err().to_string();
        assert!(error.contains("sample 0") && error.contains("--classes"), "{error}");
    }
}
