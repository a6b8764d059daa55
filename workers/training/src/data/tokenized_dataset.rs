//! Samples of the language model, encoded once. Their ids lie in a scratch file and are read when their batch comes, so
//! that memory does not grow with the texts: it holds 32 bytes a sample, to know where each is.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use radialog_models::tokenizers::LlamaTokenizer;
use rayon::prelude::*;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::data::sample_form::{ConversationMessage, SampleForm, WrittenSample};
use crate::data::tokenized_sample::TokenizedSample;
use crate::error::TrainingError;

/// Texts that are encoded in parallel before their ids are written.
const TOGETHER: usize = 1024;
/// Bytes of an id in the scratch file.
const ID_BYTES: usize = 4;
/// The bit of an id in the scratch file that says that it is learned.
const LEARNED: u32 = 1 << 31;

/// A row of an RG or INS data set.
#[derive(Clone, Debug, Deserialize)]
struct DatasetRow {
    #[serde(flatten)]
    text: RowText,
    #[serde(default)]
    dicom: String,
    /// The image's file in LLaVA's data sets, whose stem is its name.
    #[serde(default)]
    image: Option<ImageFiles>,
    /// The patient, where whoever made the data set knew it.
    #[serde(default)]
    patient: Option<String>,
    #[serde(default)]
    task_type: Option<String>,
    /// The number of answers that are learned, from the last one back.
    #[serde(default = "last_answer")]
    answers: usize,
}

/// What is read and learned: a whole prompt with its answer, or a conversation.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum RowText {
    Prompt {
        instruction: String,
        #[serde(default)]
        input: String,
        output: String,
    },
    Conversation {
        conversations: Vec<ConversationMessage>,
    },
}

/// One file, or one of several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum ImageFiles {
    One(PathBuf),
    Several(Vec<PathBuf>),
}

fn last_answer() -> usize {
    1
}

impl DatasetRow {
    /// The sample as it is trained. A prompt is joined as the original's only template does it.
    fn written(&self, form: &SampleForm) -> Result<WrittenSample, String> {
        match &self.text {
            RowText::Prompt {
                instruction,
                input,
                output,
            } if input.is_empty() => form.of_prompt(instruction, output),
            RowText::Prompt {
                instruction,
                input,
                output,
            } => form.of_prompt(&format!("{instruction} {input}"), output),
            RowText::Conversation { conversations } => form.of_conversation(conversations),
        }
    }

    /// The name of the image, by which its tokens are found.
    fn image(&self) -> Result<String, String> {
        let file = match &self.image {
            Some(ImageFiles::One(file)) => Some(file),
            Some(ImageFiles::Several(files)) if files.len() > 1 => {
                return Err("it has several images, and a conversation here has one".to_owned());
            }
            Some(ImageFiles::Several(files)) => files.first(),
            None => None,
        };
        let stem = file.and_then(|file| file.file_stem());
        Ok(match stem {
            Some(stem) if self.dicom.is_empty() => stem.to_string_lossy().into_owned(),
            _ => self.dicom.clone(),
        })
    }

    /// A request for a report; whatever follows an answer, or names another task, is about one.
    fn is_report(&self) -> bool {
        self.task_type
            .as_deref()
            .is_none_or(|task| task == "report")
            && match &self.text {
                RowText::Prompt { instruction, .. } => !instruction.contains("</s>"),
                RowText::Conversation { conversations } => conversations.len() <= 2,
            }
    }
}

/// The place of a sample in the scratch file, and its origin.
#[derive(Clone, Copy, Debug)]
struct ScratchLocation {
    offset: u64,
    ids: u32,
    dicom: u32,
    file: u16,
    row: u32,
    group: u32,
    is_report: bool,
}

/// A sample of the language model, read back from the scratch file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingSample {
    /// Prompt and answer, `<s>` first.
    pub ids: Vec<u32>,
    /// The id at each position where it is learned.
    pub targets: Vec<Option<u32>>,
    /// The image.
    pub dicom: String,
    /// What errors call it.
    pub name: String,
}

/// All samples of a training of the language model, encoded once and kept on disk.
pub struct TokenizedDataset {
    files: Vec<PathBuf>,
    scratch: File,
    path: PathBuf,
    places: Vec<ScratchLocation>,
    /// Samples that teach nothing, since their prompt fills the cutoff.
    pub dropped: u64,
    /// Samples whose patient nobody names: those of one image are a group of their own.
    pub unnamed: u64,
}

impl fmt::Debug for TokenizedDataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Samples")
            .field("files", &self.files)
            .field("samples", &self.places.len())
            .finish()
    }
}

impl TokenizedDataset {
    /// Encodes the rows of these files into the file `scratch`, which is written over and has no name afterwards. Samples that
    /// teach nothing are left out and counted. `patients` names the patient of an image; a row that names one itself goes first.
    ///
    /// # Errors
    /// Files that cannot be read or written; a row that is no sample, with its place.
    pub fn encode(
        files: &[PathBuf],
        tokenizer: &LlamaTokenizer,
        form: &SampleForm,
        cutoff: usize,
        patients: &HashMap<String, String>,
        scratch: &Path,
    ) -> Result<Self, TrainingError> {
        let file = File::create(scratch).map_err(TrainingError::io("create", scratch))?;
        let mut encoder = Encoder {
            tokenizer,
            form,
            files,
            cutoff,
            waiting: Vec::new(),
            writer: BufWriter::new(file),
            path: scratch,
            written: 0,
            places: Vec::new(),
            dropped: 0,
            unnamed: 0,
            patients,
            groups: HashMap::new(),
        };
        for (index, path) in files.iter().enumerate() {
            rows(path, &mut |row, content| encoder.add(index, row, content))?;
        }
        encoder.write_waiting()?;
        let Encoder {
            mut writer,
            places,
            dropped,
            unnamed,
            ..
        } = encoder;
        writer
            .flush()
            .map_err(TrainingError::io("write", scratch))?;
        let file = File::open(scratch).map_err(TrainingError::io("open", scratch))?;
        // The file lives as long as it is open, and nothing is left of it however the training ends.
        fs::remove_file(scratch).map_err(TrainingError::io("remove", scratch))?;
        Ok(Self {
            files: files.to_vec(),
            scratch: file,
            path: scratch.to_owned(),
            places,
            dropped,
            unnamed,
        })
    }

    /// Returns the number of samples that teach something.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Returns whether no sample teaches anything.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Returns whether a sample asks for a report, and not about one.
    pub fn is_report(&self, index: usize) -> bool {
        self.places[index].is_report
    }

    /// Returns the number of a sample's patient, or of its image where no patient is named.
    pub fn group(&self, index: usize) -> u32 {
        self.places[index].group
    }

    /// Returns what errors call a sample: its file, and its number in it.
    pub fn name(&self, index: usize) -> String {
        let place = &self.places[index];
        let file = self.files[usize::from(place.file)]
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        format!("{file} sample {}", place.row)
    }

    /// Reads a sample back.
    ///
    /// # Errors
    /// The scratch file cannot be read.
    pub fn get(&self, index: usize) -> Result<TrainingSample, TrainingError> {
        let place = self.places[index];
        let mut bytes = vec![0; place.ids as usize * ID_BYTES + place.dicom as usize];
        self.scratch
            .read_exact_at(&mut bytes, place.offset)
            .map_err(TrainingError::io("read", &self.path))?;
        let dicom = bytes.split_off(place.ids as usize * ID_BYTES);
        let marked: Vec<u32> = bytes
            .as_chunks::<ID_BYTES>()
            .0
            .iter()
            .map(|id| u32::from_le_bytes(*id))
            .collect();
        Ok(TrainingSample {
            ids: marked.iter().map(|id| id & !LEARNED).collect(),
            targets: marked
                .iter()
                .map(|id| (id & LEARNED != 0).then_some(id & !LEARNED))
                .collect(),
            dicom: String::from_utf8_lossy(&dicom).into_owned(),
            name: self.name(index),
        })
    }
}

struct Encoder<'a> {
    tokenizer: &'a LlamaTokenizer,
    form: &'a SampleForm,
    files: &'a [PathBuf],
    cutoff: usize,
    waiting: Vec<(usize, u32, DatasetRow)>,
    writer: BufWriter<File>,
    path: &'a Path,
    written: u64,
    places: Vec<ScratchLocation>,
    dropped: u64,
    unnamed: u64,
    patients: &'a HashMap<String, String>,
    /// The numbers of patients and of images without one.
    groups: HashMap<(bool, String), u32>,
}

impl Encoder<'_> {
    /// The number of a sample's patient, or of its image.
    fn group(&mut self, patient: Option<String>, image: &str) -> u32 {
        let patient = patient.or_else(|| self.patients.get(image).cloned());
        let patient = patient.filter(|patient| !patient.is_empty());
        self.unnamed += u64::from(patient.is_none());
        let is_named = patient.is_some();
        let number = self.groups.len() as u32;
        let key = (is_named, patient.unwrap_or_else(|| image.to_owned()));
        *self.groups.entry(key).or_insert(number)
    }

    fn add(&mut self, file: usize, row: u32, content: DatasetRow) -> Result<(), TrainingError> {
        self.waiting.push((file, row, content));
        if self.waiting.len() == TOGETHER {
            self.write_waiting()
        } else {
            Ok(())
        }
    }

    fn write_waiting(&mut self) -> Result<(), TrainingError> {
        let encode = |(file, number, row): &(usize, u32, DatasetRow)| {
            let fault = |reason| TrainingError::Content {
                path: self.files[*file].clone(),
                line: None,
                reason: format!("sample {number}: {reason}"),
            };
            let written = row.written(self.form).map_err(fault)?;
            let image = row.image().map_err(fault)?;
            let sample = TokenizedSample::encode_conversation(
                self.tokenizer,
                &written.instruction,
                &written.output,
                row.answers,
                self.cutoff,
            )?;
            Ok((sample, image))
        };
        let examples: Vec<(TokenizedSample, String)> = self
            .waiting
            .par_iter()
            .map(encode)
            .collect::<Result<_, TrainingError>>()?;
        let waiting = std::mem::take(&mut self.waiting);
        for ((file, number, row), (example, image)) in waiting.into_iter().zip(examples) {
            if !example.teaches() {
                self.dropped += 1;
                continue;
            }
            let learned = example.targets();
            let marked = example
                .ids
                .iter()
                .zip(learned)
                .map(|(id, target)| id | target.map_or(0, |_| LEARNED));
            let ids = marked.flat_map(u32::to_le_bytes).collect::<Vec<u8>>();
            let dicom = image.as_bytes();
            for bytes in [ids.as_slice(), dicom] {
                self.writer
                    .write_all(bytes)
                    .map_err(TrainingError::io("write", self.path))?;
            }
            let group = self.group(row.patient.clone(), &image);
            self.places.push(ScratchLocation {
                offset: self.written,
                ids: example.ids.len() as u32,
                dicom: dicom.len() as u32,
                file: file as u16,
                row: number,
                group,
                is_report: row.is_report(),
            });
            self.written += (ids.len() + dicom.len()) as u64;
        }
        Ok(())
    }
}

/// Gives each row of a file, counted from 1, to `take`: a JSON array, or one object after the other.
fn rows(
    path: &Path,
    take: &mut dyn FnMut(u32, DatasetRow) -> Result<(), TrainingError>,
) -> Result<(), TrainingError> {
    let file = File::open(path).map_err(TrainingError::io("open", path))?;
    let mut reader = BufReader::new(file);
    let is_array = starts_with_bracket(path)?;
    let mut number = 0;
    let mut failure = None;
    let result = if is_array {
        let mut deserializer = serde_json::Deserializer::from_reader(&mut reader);
        let each = RowVisitor {
            number: &mut number,
            take,
            failure: &mut failure,
        };
        each.deserialize(&mut deserializer)
            .and_then(|()| deserializer.end())
    } else {
        let mut rows = serde_json::Deserializer::from_reader(&mut reader).into_iter::<DatasetRow>();
        rows.try_for_each(|row| {
            number += 1;
            take(number, row?).map_err(|error| kept(&mut failure, error))
        })
    };
    match (failure, result) {
        (Some(failure), _) => Err(failure),
        (None, Ok(())) => Ok(()),
        (None, Err(error)) => {
            let line = error.line() as u64;
            let reason = format!(
                "sample {} cannot be read: {error}; a sample has instruction, output and dicom, or conversations and \
                 image",
                number
            );
            Err(TrainingError::line(path, line, reason))
        }
    }
}

fn starts_with_bracket(path: &Path) -> Result<bool, TrainingError> {
    let file = BufReader::new(File::open(path).map_err(TrainingError::io("open", path))?);
    for byte in file.bytes() {
        let byte = byte.map_err(TrainingError::io("read", path))?;
        if !byte.is_ascii_whitespace() {
            return Ok(byte == b'[');
        }
    }
    Ok(false)
}

/// Keeps our own error while the parser carries one of its kind.
fn kept(failure: &mut Option<TrainingError>, error: TrainingError) -> serde_json::Error {
    let shown = serde::de::Error::custom(&error);
    *failure = Some(error);
    shown
}

/// A JSON array whose items are taken one by one.
struct RowVisitor<'a> {
    number: &'a mut u32,
    take: &'a mut dyn FnMut(u32, DatasetRow) -> Result<(), TrainingError>,
    failure: &'a mut Option<TrainingError>,
}

impl<'de> DeserializeSeed<'de> for RowVisitor<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for RowVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of samples")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        loop {
            *self.number += 1;
            let Some(row) = items.next_element::<DatasetRow>()? else {
                break;
            };
            if let Err(error) = (self.take)(*self.number, row) {
                let shown = serde::de::Error::custom(&error);
                *self.failure = Some(error);
                return Err(shown);
            }
        }
        Ok(())
    }
}
