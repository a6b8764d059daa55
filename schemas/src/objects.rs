//! Object keys, built here and nowhere else. Every key is a function of what determines the object's content, so that
//! storing twice is harmless and a second run finds what the first one made. What came from a conversation lies below that
//! conversation's own prefix, with all that is computed from it: it is shared with nobody, and ends with its owner.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{ContentHash, ConversationId, Generation, RelativePath, Stage};

/// The name of an object in the store, e.g. `embedding/3f…c1.safetensors`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct ObjectKey(String);

/// Keys arrive in messages: what is no key is no message.
impl<'de> Deserialize<'de> for ObjectKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = RelativePath::deserialize(deserializer)?;
        Ok(Self(name.as_str().to_owned()))
    }
}

impl ObjectKey {
    /// An image file as found in the archive.
    pub fn image(content: &ContentHash) -> Self {
        Self(format!("images/{content}"))
    }

    /// Prefix of everything that belongs to conversations.
    pub const CONVERSATIONS: &str = "conversations/";

    /// Prefix of everything that belongs to one conversation, but for its [`crate::Correction`]s and [`crate::RatedAnswer`]s.
    pub fn conversation_prefix(conversation: &ConversationId) -> String {
        format!("{}{conversation}/", Self::CONVERSATIONS)
    }

    /// An image file as it came with a conversation. What is computed from it belongs to the conversation, too. A name may come
    /// again after its conversation was deleted; `incarnation` never does, so that what is removed of the one before is not the
    /// new one's.
    pub fn conversation_image(
        conversation: &ConversationId,
        incarnation: &str,
        content: &ContentHash,
    ) -> Self {
        let prefix = Self::conversation_prefix(conversation);
        Self(format!("{prefix}{incarnation}/images/{content}"))
    }

    /// The key as it would be in any incarnation of its conversation: what two requests for the same image have in common.
    pub fn without_incarnation(&self) -> String {
        let parts: Vec<&str> = self.0.split('/').collect();
        match (parts.as_slice(), owner(&self.0)) {
            ([folder, id, _, kind, name], Some(_)) => [*folder, id, kind, name].join("/"),
            _ => self.0.clone(),
        }
    }

    /// The sign that a conversation is there, for those who share the store and not the conversations: its time of change
    /// is when somebody last knew of it.
    pub fn conversation_lease(conversation: &ConversationId) -> Self {
        Self(format!("{}lease", Self::conversation_prefix(conversation)))
    }

    /// The conversation that this object belongs to; none where it belongs to none.
    pub fn conversation(&self) -> Option<ConversationId> {
        owner(&self.0).map(ConversationId::from)
    }

    /// A text that a study begins with: a [`crate::GeneratedReport`] to label, a [`crate::TextPrompt`] to answer, or a
    /// [`crate::DialogPrompt`] to go on with.
    pub fn text(content: &ContentHash) -> Self {
        Self(format!("texts/{content}.json"))
    }

    /// A radiologist's report that ours is compared with (UTF-8 text).
    pub fn reference(content: &ContentHash) -> Self {
        Self(format!("references/{content}.txt"))
    }

    /// Image tokens `[32, 768]` of an image.
    pub fn embedding(component: &ContentHash, image: &ObjectKey) -> Self {
        Self::embedding_by(*Stage::REVISIONS.get(Stage::Embedding), component, image)
    }

    /// [`ObjectKey::embedding`] as a release with this revision of the stage's code derives it.
    pub fn embedding_by(revision: u32, component: &ContentHash, image: &ObjectKey) -> Self {
        let inputs = [image.as_str()];
        Self::output(
            Stage::Embedding,
            revision,
            component,
            &inputs,
            "safetensors",
        )
    }

    /// An output of an image stage that was given with a run, and not computed: by its content alone, and apart from
    /// everything that is computed.
    pub fn given(stage: Stage, content: &ContentHash) -> Self {
        let suffix = match stage {
            Stage::Embedding => "safetensors",
            Stage::Findings | Stage::Language | Stage::Scoring => "json",
        };
        Self(format!("given/{stage}/{content}.{suffix}"))
    }

    /// The 14 findings of an image.
    pub fn findings(component: &ContentHash, image: &ObjectKey) -> Self {
        Self::findings_by(*Stage::REVISIONS.get(Stage::Findings), component, image)
    }

    /// [`ObjectKey::findings`] as a release with this revision of the stage's code derives it.
    pub fn findings_by(revision: u32, component: &ContentHash, image: &ObjectKey) -> Self {
        let inputs = [image.as_str()];
        Self::output(Stage::Findings, revision, component, &inputs, "json")
    }

    /// The report for image tokens and findings under given decoding options.
    pub fn report(
        component: &ContentHash,
        embedding: &ObjectKey,
        findings: &ObjectKey,
        generation: &Generation,
    ) -> Self {
        let revision = *Stage::REVISIONS.get(Stage::Language);
        Self::report_by(revision, component, (embedding, findings), generation)
    }

    /// [`ObjectKey::report`] of an embedding and findings as a release with this revision of the stage's code derives it.
    pub fn report_by(
        revision: u32,
        component: &ContentHash,
        (embedding, findings): (&ObjectKey, &ObjectKey),
        generation: &Generation,
    ) -> Self {
        let options = generation.fingerprint();
        let inputs = [embedding.as_str(), findings.as_str(), &options];
        Self::output(Stage::Language, revision, component, &inputs, "json")
    }

    /// The answer to a stored prompt under given decoding options.
    pub fn answer(component: &ContentHash, prompt: &ObjectKey, generation: &Generation) -> Self {
        let revision = *Stage::REVISIONS.get(Stage::Language);
        Self::answer_by(revision, component, prompt, generation)
    }

    /// [`ObjectKey::answer`] as a release with this revision of the stage's code derives it.
    pub fn answer_by(
        revision: u32,
        component: &ContentHash,
        prompt: &ObjectKey,
        generation: &Generation,
    ) -> Self {
        let inputs = [prompt.as_str(), &generation.fingerprint()];
        Self::output(Stage::Language, revision, component, &inputs, "json")
    }

    /// The CheXbert labels of a report and, where there is one, of its reference.
    pub fn labels(
        component: &ContentHash,
        report: &ObjectKey,
        reference: Option<&ObjectKey>,
    ) -> Self {
        let revision = *Stage::REVISIONS.get(Stage::Scoring);
        Self::labels_by(revision, component, report, reference)
    }

    /// [`ObjectKey::labels`] as a release with this revision of the stage's code derives it.
    pub fn labels_by(
        revision: u32,
        component: &ContentHash,
        report: &ObjectKey,
        reference: Option<&ObjectKey>,
    ) -> Self {
        let inputs = [report.as_str(), reference.map_or("", ObjectKey::as_str)];
        Self::output(Stage::Scoring, revision, component, &inputs, "json")
    }

    /// Prefix of all [`crate::Correction`]s.
    pub const CORRECTIONS: &str = "corrections/";

    /// The [`crate::Correction`] of one answer.
    pub fn correction(conversation: &ConversationId, turn: u32) -> Self {
        Self(format!("{}{conversation}/{turn}.json", Self::CORRECTIONS))
    }

    /// Prefix of all [`crate::RatedAnswer`]s.
    pub const RATINGS: &str = "ratings/";

    /// The [`crate::RatedAnswer`] of one turn.
    pub fn rating(conversation: &ConversationId, turn: u32) -> Self {
        Self(format!("{}{conversation}/{turn}.json", Self::RATINGS))
    }

    /// One part of a result file of a run over an archive that was asked for over HTTP; parts are counted from 0.
    pub fn archive_run_part(run: &str, file: &str, part: u32) -> Self {
        Self(format!("batches/{run}/{file}/{part:06}"))
    }

    /// Prefix of the files of requests that were uploaded for batches or written by them.
    pub const REQUEST_FILES: &str = "request-files/";

    /// Prefix of what is known of each file: a listing of it reads no part's name.
    pub const REQUEST_FILE_HEADS: &str = "request-files/heads/";

    /// Prefix of the signs of files that have parts and perhaps no head: they come in, or are being removed.
    pub const OPEN_REQUEST_FILES: &str = "request-files/open/";

    /// Prefix of the parts of all files of requests.
    pub const REQUEST_FILE_PARTS: &str = "request-files/parts/";

    /// Prefix of what is known of one owner's files, who is named by a hash.
    pub fn request_file_heads_of(owner: &ContentHash) -> String {
        format!("{}{owner}/", Self::REQUEST_FILE_HEADS)
    }

    /// What is known of a file of requests. It is written last and removed first: without it, there is no such file.
    pub fn request_file_head(owner: &ContentHash, file: &str) -> Self {
        Self(format!("{}{file}", Self::request_file_heads_of(owner)))
    }

    /// The sign that a file of requests has parts and perhaps no head.
    pub fn open_request_file(owner: &ContentHash, file: &str) -> Self {
        Self(format!("{}{owner}.{file}", Self::OPEN_REQUEST_FILES))
    }

    /// Prefix of the parts of one file of requests.
    pub fn request_file_parts(owner: &ContentHash, file: &str) -> String {
        format!("{}{owner}/{file}/", Self::REQUEST_FILE_PARTS)
    }

    /// One part of a file of requests, which may have the name of who wrote it; parts are counted from 0.
    pub fn request_file_part(
        owner: &ContentHash,
        file: &str,
        part: u32,
        writer: Option<&str>,
    ) -> Self {
        let prefix = Self::request_file_parts(owner, file);
        Self(match writer {
            Some(writer) => format!("{prefix}{part:06}-{writer}"),
            None => format!("{prefix}{part:06}"),
        })
    }

    /// Prefix of the batches of requests.
    pub const REQUEST_BATCHES: &str = "request-batches/";

    /// Prefix of the signs of batches that have not ended.
    pub const OPEN_REQUEST_BATCHES: &str = "request-batches/open/";

    /// Prefix of all batches of requests of one owner.
    pub fn request_batches_of(owner: &ContentHash) -> String {
        format!("{}{owner}/", Self::REQUEST_BATCHES)
    }

    /// The state of a batch of requests.
    pub fn request_batch(owner: &ContentHash, batch: &str) -> Self {
        Self(format!("{}{batch}.json", Self::request_batches_of(owner)))
    }

    /// The sign that a batch of requests has not ended, for whoever looks for work.
    pub fn open_request_batch(owner: &ContentHash, batch: &str) -> Self {
        Self(format!("{}{owner}.{batch}", Self::OPEN_REQUEST_BATCHES))
    }

    /// Prefix of the names that batches of requests were given by the keys of their requests.
    pub const REQUEST_BATCH_KEYS: &str = "request-batches/keys/";

    /// The name of the batch that was asked for with an idempotency key, of which `key` is the hash.
    pub fn request_batch_key(owner: &ContentHash, key: &ContentHash) -> Self {
        Self(format!("{}{owner}.{key}", Self::REQUEST_BATCH_KEYS))
    }

    /// The folders of everything that is stored under these keys: no place for anything else.
    pub fn folders() -> impl Iterator<Item = &'static str> {
        let whole = |prefix: &'static str| prefix.trim_end_matches('/');
        ["images", "texts", "references", "given", "batches"]
            .into_iter()
            .chain(
                [
                    Self::CONVERSATIONS,
                    Self::CORRECTIONS,
                    Self::RATINGS,
                    Self::REQUEST_FILES,
                    Self::REQUEST_BATCHES,
                ]
                .map(whole),
            )
            .chain(Stage::ALL.map(Stage::name))
    }

    /// Whether a path, of a store that lies in some folder, ends as [`ObjectKey::image`] and
    /// [`ObjectKey::conversation_image`] do: `images/` and a hash.
    pub fn is_stored_image(path: &str) -> bool {
        let mut parts = path.rsplit('/');
        let (Some(name), Some("images")) = (parts.next(), parts.next()) else {
            return false;
        };
        name.len() == 64
            && name
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }

    fn output(
        stage: Stage,
        revision: u32,
        component: &ContentHash,
        inputs: &[&str],
        suffix: &str,
    ) -> Self {
        let revision = revision.to_string();
        let parts = [component.as_str(), &revision]
            .into_iter()
            .chain(inputs.iter().copied())
            .map(str::as_bytes);
        let hash = ContentHash::of_parts(parts);
        let prefix = inputs
            .iter()
            .find_map(|input| owner(input))
            .map(|id| format!("{}{id}/", Self::CONVERSATIONS))
            .unwrap_or_default();
        Self(format!("{prefix}{stage}/{hash}.{suffix}"))
    }

    /// A key that came from outside, e.g. a listing: a [`RelativePath`], or none.
    pub fn parse(text: &str) -> Option<Self> {
        RelativePath::check(text)
            .ok()
            .map(|()| Self(text.to_owned()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The conversation that the object of this key belongs to.
fn owner(key: &str) -> Option<&str> {
    let (id, _) = key
        .strip_prefix(ObjectKey::CONVERSATIONS)?
        .split_once('/')?;
    Some(id)
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_key_changes_with_every_decoding_option() {
        let hash = ContentHash::of(b"x");
        let image = ObjectKey::image(&hash);
        let key = |generation: &Generation| ObjectKey::report(&hash, &image, &image, generation);
        let greedy = Generation::default();
        let longer = Generation {
            max_new_tokens: greedy.max_new_tokens + 1,
            ..greedy.clone()
        };
        let seeded = Generation {
            temperature: Some(0.7),
            seed: 1,
            ..greedy.clone()
        };
        assert_eq!(
            key(&greedy),
            key(&Generation {
                seed: 9,
                ..greedy.clone()
            }),
            "a seed means nothing to greedy decoding"
        );
        assert_ne!(key(&greedy), key(&longer));
        let by = |name: &str| Generation {
            adapter: Some(name.parse().unwrap()),
            ..greedy.clone()
        };
        assert_ne!(key(&greedy), key(&by("rg")));
        assert_ne!(key(&by("rg")), key(&by("ins")));
        assert_ne!(
            key(&seeded),
            key(&Generation {
                seed: 2,
                ..seeded.clone()
            })
        );
    }

    #[test]
    fn the_revision_of_a_stages_code_is_part_of_its_keys() {
        let hash = ContentHash::of(b"x");
        let (image, generation) = (ObjectKey::image(&hash), Generation::default());
        let options = generation.fingerprint();
        let revisions = Stage::REVISIONS;
        for (key, revision, inputs) in [
            (
                ObjectKey::embedding(&hash, &image),
                revisions.embedding,
                vec![image.as_str()],
            ),
            (
                ObjectKey::findings(&hash, &image),
                revisions.findings,
                vec![image.as_str()],
            ),
            (
                ObjectKey::answer(&hash, &image, &generation),
                revisions.language,
                vec![image.as_str(), &options],
            ),
            (
                ObjectKey::labels(&hash, &image, None),
                revisions.scoring,
                vec![image.as_str(), ""],
            ),
        ] {
            let revision = revision.to_string();
            let parts = [hash.as_str(), &revision].into_iter().chain(inputs);
            let expected = ContentHash::of_parts(parts.map(str::as_bytes));
            assert!(key.as_str().contains(expected.as_str()), "{key}");
        }
    }

    #[test]
    fn what_is_computed_from_a_conversations_image_belongs_to_the_conversation() {
        let hash = ContentHash::of(b"x");
        let (one, other) = (ConversationId::from("one"), ConversationId::from("other"));
        let image = ObjectKey::conversation_image(&one, "a", &hash);
        let embedding = ObjectKey::embedding(&hash, &image);
        let findings = ObjectKey::findings(&hash, &image);
        let report = ObjectKey::report(&hash, &embedding, &findings, &Generation::default());
        let labels = ObjectKey::labels(&hash, &report, None);
        for key in [&image, &embedding, &findings, &report, &labels] {
            assert_eq!(key.conversation(), Some(one.clone()), "{key}");
            let prefix = ObjectKey::conversation_prefix(&one);
            assert!(key.as_str().starts_with(&prefix), "{key}");
        }
        assert_ne!(ObjectKey::conversation_image(&other, "a", &hash), image);
        let again = ObjectKey::conversation_image(&one, "b", &hash);
        assert_ne!(again, image);
        assert_ne!(ObjectKey::embedding(&hash, &again), embedding);
        assert_eq!(again.without_incarnation(), image.without_incarnation());
        let of_a_run = ObjectKey::image(&hash);
        assert_eq!(of_a_run.without_incarnation(), of_a_run.as_str());
        let of_a_run = ObjectKey::embedding(&hash, &ObjectKey::image(&hash));
        assert_eq!(of_a_run.conversation(), None);
    }

    #[test]
    fn every_key_lies_in_one_of_the_folders() {
        let (hash, id) = (ContentHash::of(b"x"), ConversationId::from("one"));
        let image = ObjectKey::image(&hash);
        let keys = [
            ObjectKey::conversation_image(&id, "a", &hash),
            ObjectKey::text(&hash),
            ObjectKey::reference(&hash),
            ObjectKey::given(Stage::Findings, &hash),
            ObjectKey::embedding(&hash, &image),
            ObjectKey::findings(&hash, &image),
            ObjectKey::answer(&hash, &image, &Generation::default()),
            ObjectKey::labels(&hash, &image, None),
            ObjectKey::correction(&id, 1),
            ObjectKey::archive_run_part("one", "results", 0),
            ObjectKey::request_file_part(&hash, "one", 0, None),
            ObjectKey::request_batch(&hash, "one"),
            ObjectKey::open_request_batch(&hash, "one"),
            image,
        ];
        for key in keys {
            let (folder, _) = key.as_str().split_once('/').unwrap();
            assert!(ObjectKey::folders().any(|own| own == folder), "{key}");
        }
    }

    #[test]
    fn keys_from_outside_cannot_climb() {
        assert!(ObjectKey::parse("../secret").is_none());
        assert!(ObjectKey::parse("/absolute").is_none());
        assert!(serde_json::from_str::<ObjectKey>("\"../secret\"").is_err());
        assert!(ObjectKey::parse("images/abc").is_some());
    }
}
