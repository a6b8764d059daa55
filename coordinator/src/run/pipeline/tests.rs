use Stage::{Embedding, Findings, Language, Scoring};
use radialog_schemas::{
    ContentHash, ErrorCode, Generation, PerStage, RunId, SCHEMA_VERSION, StageSet, StageTimings,
    StudyId,
};

use super::*;

fn run(stages: &[Stage]) -> RunSpec {
    RunSpec {
        schema_version: SCHEMA_VERSION,
        run: RunId::from("run"),
        source: Source::Image,
        stages: StageSet::closure(stages),
        generation: Generation::default(),
        bundle: ContentHash::of(b"bundle"),
        components: PerStage::from_fn(|stage| ContentHash::of(stage.name().as_bytes())),
        group: None,
        given: std::collections::BTreeMap::new(),
        conversation: None,
    }
}

fn facts(done: &[Stage], failed: &[Stage]) -> StudyFacts {
    let image = ObjectKey::image(&ContentHash::of(b"image"));
    let spec = StudySpec {
        study: StudyId::from("study"),
        file: "study.png".into(),
        input: image.clone(),
        other_files: Vec::new(),
        reference: None,
        indication: None,
        split: None,
        given: BTreeMap::new(),
    };
    let keys = OutputKeys::of(&run(&[]), &image, None);
    let mut results = BTreeMap::new();
    for stage in done {
        let output = keys.output(*stage).clone();
        results.insert(*stage, result(*stage, Outcome::Done { output }));
    }
    for stage in failed {
        results.insert(*stage, result(*stage, failure(*stage)));
    }
    StudyFacts { spec, results }
}

fn result(stage: Stage, outcome: Outcome) -> StageResult {
    StageResult {
        schema_version: SCHEMA_VERSION,
        run: RunId::from("run"),
        study: StudyId::from("study"),
        stage,
        task_output: None,
        outcome,
        timings: StageTimings::default(),
    }
}

fn failure(stage: Stage) -> Outcome {
    Outcome::Failed(Failure::new(ErrorCode::Model, stage))
}

type Stages = &'static [Stage];
/// The stages published, or none for a finish.
type Steps = Option<Stages>;

fn steps(run: &RunSpec, facts: &StudyFacts, event: StudyEvent<'_>) -> Option<Vec<Stage>> {
    let commands = next_commands(run, facts, event);
    if commands == [StudyCommand::Finish] {
        return None;
    }
    let stage = |command: &StudyCommand| match command {
        StudyCommand::Publish(task) => task.work.stage(),
        StudyCommand::Finish => panic!("finish beside other commands"),
    };
    Some(commands.iter().map(stage).collect())
}

#[test]
fn what_follows_from_each_report() {
    #[rustfmt::skip]
    let table: [(&str, Stages, Stages, Stages, Steps); 15] = [
        // what happened                        done                                     failed                  reported      what follows
        ("the first of two reports",            &[Embedding],                            &[],                    &[Embedding], Some(&[])),
        ("the other one first",                 &[Findings],                             &[],                    &[Findings],  Some(&[])),
        ("both are in",                         &[Embedding, Findings],                  &[],                    &[Findings],  Some(&[Language])),
        ("both in one batch",                   &[Embedding, Findings],                  &[],                    &[Embedding, Findings], Some(&[Language])),
        ("a duplicate that may be a redelivery after a crash", &[Embedding, Findings],   &[],                    &[Embedding], Some(&[Language])),
        ("a report is written",                 &[Embedding, Findings, Language],        &[],                    &[Language],  Some(&[Scoring])),
        ("a late duplicate of a first stage",   &[Embedding, Findings, Language],        &[],                    &[Embedding], Some(&[])),
        ("everything is done",                  &[Embedding, Findings, Language, Scoring], &[],                  &[Scoring],   None),
        ("a duplicate after everything is done", &[Embedding, Findings, Language, Scoring], &[],                 &[Findings],  None),
        ("one failed, its sibling still runs",  &[],                                     &[Embedding],           &[Embedding], Some(&[])),
        ("one failed, its sibling is done",     &[Findings],                             &[Embedding],           &[Findings],  None),
        ("one failed after its sibling",        &[Findings],                             &[Embedding],           &[Embedding], None),
        ("both failed",                         &[],                                     &[Embedding, Findings], &[Findings],  None),
        ("the report failed",                   &[Embedding, Findings],                  &[Language],            &[Language],  None),
        ("scoring failed",                      &[Embedding, Findings, Language],        &[Scoring],             &[Scoring],   None),
    ];
    for (name, done, failed, reported, expected) in table {
        let steps = steps(
            &run(&[Scoring]),
            &facts(done, failed),
            StudyEvent::Reported(reported),
        );
        assert_eq!(steps.as_deref(), expected, "{name}");
    }
}

#[test]
fn a_study_that_begins_again_publishes_whatever_has_not_reported() {
    #[rustfmt::skip]
    let table: [(Stages, Stages, Steps); 6] = [
        (&[],                                       &[],          Some(&[Embedding, Findings])),
        (&[Embedding],                              &[],          Some(&[Findings])),
        (&[],                                       &[Embedding], Some(&[Findings])),
        (&[Embedding, Findings],                    &[],          Some(&[Language])),
        (&[Embedding, Findings, Language],          &[],          Some(&[Scoring])),
        (&[Embedding, Findings, Language, Scoring], &[],          None),
    ];
    for (done, failed, expected) in table {
        let steps = steps(&run(&[Scoring]), &facts(done, failed), StudyEvent::Begun);
        assert_eq!(
            steps.as_deref(),
            expected,
            "done {done:?} failed {failed:?}"
        );
    }
}

#[test]
fn a_run_ends_with_the_stages_it_was_asked_for() {
    let findings_only = run(&[Findings]);
    assert_eq!(
        steps(&findings_only, &facts(&[], &[]), StudyEvent::Begun),
        Some(vec![Findings])
    );
    assert_eq!(
        steps(
            &findings_only,
            &facts(&[Findings], &[]),
            StudyEvent::Reported(&[Findings])
        ),
        None
    );
    let reports = run(&[Language]);
    let done = facts(&[Embedding, Findings, Language], &[]);
    assert_eq!(
        steps(&reports, &done, StudyEvent::Reported(&[Language])),
        None
    );
}

#[test]
fn the_error_of_a_study_is_that_of_the_first_failed_stage_in_pipeline_order() {
    let facts = facts(&[], &[Findings, Embedding]);
    assert_eq!(facts.failure().unwrap().0, Embedding);
}

#[test]
fn a_report_task_reads_the_outputs_of_its_two_predecessors() {
    let run = run(&[Scoring]);
    let facts = facts(&[Embedding, Findings], &[]);
    let keys = OutputKeys::of(&run, &facts.spec.input, None);
    let commands = next_commands(&run, &facts, StudyEvent::Begun);
    let [StudyCommand::Publish(task)] = commands.as_slice() else {
        panic!("{commands:?}")
    };
    assert_eq!(&task.output, keys.output(Language));
    assert_eq!(&task.component, run.component(Language));
    let Work::Report {
        embedding,
        findings,
        ..
    } = &task.work
    else {
        panic!("{task:?}")
    };
    assert_eq!(
        (embedding, findings),
        (keys.output(Embedding), keys.output(Findings))
    );
}

/// The key that a worker whose stage is a revision further gives to its output.
fn told_by_another_release(run: &RunSpec, image: &ObjectKey, stage: Stage) -> ObjectKey {
    let (keys, component) = (OutputKeys::of(run, image, None), run.component(stage));
    let revision = *Stage::REVISIONS.get(stage) + 1;
    let (embedding, findings) = (keys.output(Embedding), keys.output(Findings));
    match stage {
        Embedding => ObjectKey::embedding_by(revision, component, image),
        Findings => ObjectKey::findings_by(revision, component, image),
        Language => {
            ObjectKey::report_by(revision, component, (embedding, findings), &run.generation)
        }
        Scoring => ObjectKey::labels_by(revision, component, keys.output(Language), None),
    }
}

#[test]
fn a_late_result_of_another_image_is_not_that_of_the_image_that_took_its_place() {
    let run = run(&Stage::ALL);
    let mut facts = facts(&[Embedding, Findings], &[]);
    let own = OutputKeys::of(&run, &facts.spec.input, None);
    let other = ObjectKey::image(&ContentHash::of(b"another image"));
    let of_other = OutputKeys::of(&run, &other, None);
    for stage in [Embedding, Findings] {
        for told in [
            of_other.output(stage).clone(),
            told_by_another_release(&run, &other, stage),
        ] {
            facts.results.get_mut(&stage).unwrap().outcome = Outcome::Done { output: told };
            assert_eq!(OutputKeys::of_facts(&run, &facts), own, "{stage}");
        }
    }
}

#[test]
fn a_result_is_of_the_image_that_its_task_was_made_for() {
    let run = run(&Stage::ALL);
    let other = ObjectKey::image(&ContentHash::of(b"another image"));
    for stage in Stage::ALL {
        let facts = facts(&Stage::ALL[..stage as usize], &[]);
        let takes = |task: Option<&ObjectKey>, outcome| {
            let result = StageResult {
                task_output: task.cloned(),
                ..result(stage, outcome)
            };
            facts.takes(&run, &result)
        };
        for (image, is_own) in [(&facts.spec.input, true), (&other, false)] {
            for key in [
                OutputKeys::of(&run, image, None).output(stage).clone(),
                told_by_another_release(&run, image, stage),
            ] {
                let output = key.clone();
                let done = Outcome::Done { output };
                assert_eq!(takes(Some(&key), done.clone()), is_own, "{stage} {key}");
                assert_eq!(takes(Some(&key), failure(stage)), is_own, "{stage} {key}");
                // A worker of an earlier release tells no task, and where it has failed nothing tells which it was.
                assert_eq!(takes(None, done), is_own, "{stage} {key}");
            }
        }
        assert!(takes(None, failure(stage)), "{stage}");
    }
}

#[test]
fn what_another_release_has_stored_is_read_under_the_key_that_it_told() {
    let run = run(&Stage::ALL);
    // The stage that a worker of another release did: whose keys change with its own, and whose do not.
    #[rustfmt::skip]
    let table: [(Stage, Stages, Stages); 4] = [
        (Embedding, &[Embedding, Language, Scoring], &[Findings]),
        (Findings,  &[Findings, Language, Scoring],  &[Embedding]),
        (Language,  &[Language, Scoring],            &[Embedding, Findings]),
        (Scoring,   &[Scoring],                      &[Embedding, Findings, Language]),
    ];
    for (stage, changed, same) in table {
        let mut facts = facts(&[stage], &[]);
        let own = OutputKeys::of(&run, &facts.spec.input, None);
        let told = told_by_another_release(&run, &facts.spec.input, stage);
        facts.results.get_mut(&stage).unwrap().outcome = Outcome::Done {
            output: told.clone(),
        };
        let keys = OutputKeys::of_facts(&run, &facts);
        assert_eq!(*keys.output(stage), told);
        for changed in changed {
            assert_ne!(
                keys.output(*changed),
                own.output(*changed),
                "{stage} {changed}"
            );
        }
        for same in same {
            assert_eq!(keys.output(*same), own.output(*same), "{stage} {same}");
        }
    }

    // The report is made of it.
    let mut facts = facts(&[Embedding, Findings], &[]);
    let told = told_by_another_release(&run, &facts.spec.input, Findings);
    facts.results.get_mut(&Findings).unwrap().outcome = Outcome::Done {
        output: told.clone(),
    };
    let commands = next_commands(&run, &facts, StudyEvent::Reported(&[Findings]));
    let [StudyCommand::Publish(task)] = commands.as_slice() else {
        panic!("{commands:?}")
    };
    assert!(
        matches!(&task.work, Work::Report { findings, .. } if *findings == told),
        "{task:?}"
    );
    assert_eq!(
        &task.output,
        OutputKeys::of_facts(&run, &facts).output(Language)
    );
}

#[test]
fn an_image_whose_conversation_another_release_has_begun_is_stored_where_its_turns_look_for_it() {
    let run = run(&[Embedding, Findings]);
    let facts = facts(&[], &[]);
    let image = &facts.spec.input;
    let other = ObjectKey::image(&ContentHash::of(b"another image"));
    let keys = |image: &ObjectKey| ChatImage {
        image: facts.spec.input.clone(),
        media_type: "image/png".into(),
        embedding: told_by_another_release(&run, image, Embedding),
        findings: told_by_another_release(&run, image, Findings),
    };
    let (told, of_other) = (keys(image), keys(&other));
    for command in next_commands(&run, &facts, StudyEvent::Begun) {
        let StudyCommand::Publish(task) = command else {
            panic!("nothing is known of it yet")
        };
        let stage = task.work.stage();
        let mut moved = task.clone();
        store_for_conversation(&mut moved, &told);
        let own = *Stage::REVISIONS.get(stage);
        let output = [&told.embedding, &told.findings][stage as usize];
        assert_eq!((&moved.output, moved.revision), (output, Some(own + 1)));
        // A key that no release makes of this image stays another one's.
        let mut kept = task.clone();
        store_for_conversation(&mut kept, &of_other);
        assert_eq!(kept, task);
    }
}

#[test]
fn a_text_goes_to_its_stage_at_once_and_to_no_other() {
    let from = |source, wanted: &[Stage]| RunSpec {
        source,
        stages: StageSet::closure_from(source, wanted),
        ..run(&[])
    };
    let labels = from(Source::Report, &[Scoring]);
    let commands = next_commands(&labels, &facts(&[], &[]), StudyEvent::Begun);
    let [StudyCommand::Publish(task)] = commands.as_slice() else {
        panic!("{commands:?}")
    };
    let Work::Scoring {
        report,
        reference: None,
    } = &task.work
    else {
        panic!("{task:?}")
    };
    assert_eq!(*report, facts(&[], &[]).spec.input);
    assert_eq!(
        steps(
            &labels,
            &facts(&[Scoring], &[]),
            StudyEvent::Reported(&[Scoring])
        ),
        None
    );

    let answers = from(Source::Prompt, &[Scoring]);
    let commands = next_commands(&answers, &facts(&[], &[]), StudyEvent::Begun);
    let [StudyCommand::Publish(task)] = commands.as_slice() else {
        panic!("{commands:?}")
    };
    assert!(
        matches!(&task.work, Work::Answer { prompt, .. } if *prompt == facts(&[], &[]).spec.input)
    );
    let answered = facts(&[Language], &[]);
    assert_eq!(
        steps(&answers, &answered, StudyEvent::Reported(&[Language])),
        Some(vec![Scoring])
    );
}

#[test]
fn facts_read_back_as_written() {
    let facts = facts(&[Embedding], &[Findings]);
    let mut fields = Facts::from([(
        STUDY_FIELD.to_owned(),
        serde_json::to_string(&facts.spec).unwrap(),
    )]);
    for (stage, result) in &facts.results {
        fields.insert(
            stage.name().to_owned(),
            serde_json::to_string(result).unwrap(),
        );
    }
    assert_eq!(StudyFacts::parse(&fields).unwrap(), facts);
    fields.remove(STUDY_FIELD);
    assert!(StudyFacts::parse(&fields).is_err());
}

#[test]
fn what_was_given_is_never_asked_for_and_what_follows_is_made_of_it() {
    let given = |stage: Stage| {
        let content = ContentHash::of(stage.name().as_bytes());
        let file = radialog_schemas::record::GivenFile {
            name: "file".into(),
            sha256: content.clone(),
        };
        let object = ObjectKey::given(stage, &content);
        (stage, GivenOutput { object, file })
    };
    let run = run(&Stage::ALL);
    let stages = |facts: &StudyFacts, event| {
        let commands = next_commands(&run, facts, event).into_iter();
        let stage = |command| match command {
            StudyCommand::Publish(task) => Some(task.work.stage()),
            StudyCommand::Finish => None,
        };
        commands.map(stage).collect::<Vec<_>>()
    };
    // The embedding alone: the report waits for the findings.
    let mut facts = facts(&[], &[]);
    facts.spec.given = BTreeMap::from([given(Embedding)]);
    assert_eq!(stages(&facts, StudyEvent::Begun), [Some(Findings)]);
    // Both: it begins with the report, which reads what was given.
    facts.spec.given.extend([given(Findings)]);
    let begun = next_commands(&run, &facts, StudyEvent::Begun);
    let [StudyCommand::Publish(task)] = begun.as_slice() else {
        panic!("{begun:?}");
    };
    let Work::Report {
        embedding,
        findings,
        ..
    } = &task.work
    else {
        panic!("{task:?}");
    };
    assert_eq!(
        [embedding, findings],
        [Embedding, Findings].map(|stage| &facts.spec.given[&stage].object)
    );
    let computed = OutputKeys::of(&run, &facts.spec.input, None);
    assert_ne!(&task.output, computed.output(Language));
    // Who was asked for it before tells nothing of it.
    assert!(!facts.takes(&run, &result(Embedding, failure(Embedding))));
    let output = computed.output(Embedding).clone();
    assert!(!facts.takes(&run, &result(Embedding, Outcome::Done { output })));
    // A run of the image stages alone has nothing to do.
    let images = super::tests::run(&[Embedding, Findings]);
    assert_eq!(
        next_commands(&images, &facts, StudyEvent::Begun),
        [StudyCommand::Finish]
    );
}
