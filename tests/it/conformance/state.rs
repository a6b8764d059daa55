//! The state contract.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use radialog_runtime::state::{Fact, Facts, STUDY_FIELD, State};
use radialog_schemas::{QueueGroup, RunId};
use radialog_tests::waiting;

use crate::adapters::on_each_adapter;

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(60);

mod adapters {
    use std::sync::Arc;

    use radialog_runtime::state::State;
    use radialog_runtime::state::memory::MemoryState;
    use radialog_tests::services::Services;

    pub(super) async fn memory() -> Arc<dyn State> {
        Arc::new(MemoryState::default())
    }

    pub(super) async fn redis() -> Arc<dyn State> {
        crate::adapters::redis().await
    }

    pub(super) async fn redis_cluster() -> Arc<dyn State> {
        let nodes = Services::redis_cluster().await.unwrap();
        crate::adapters::redis_at(&nodes).await
    }
}

on_each_adapter! { memory, redis, redis_cluster: {
    a_document_is_replaced_and_belongs_to_its_run,
    of_several_writers_of_a_new_document_one_wins,
    a_fact_is_written_once,
    a_study_that_was_never_begun_takes_no_facts,
    a_fact_of_a_study_as_it_was_before_is_not_written,
    beginning_again_keeps_what_is_there,
    finishing_removes_the_study_and_appends_its_line_once,
    finished_lines_are_read_and_discarded_in_order,
    a_run_that_has_ended_takes_no_line_until_it_is_opened_again,
    a_forgotten_study_leaves_no_line_however_often_it_is_forgotten,
    batches_answer_in_order_and_may_name_a_study_twice,
    racing_coordinators_see_each_fact_and_finish_once,
    empty_batches_are_nothing,
    groups_of_queues_are_noted_once_and_listed_in_order,
    a_group_is_served_as_long_as_a_gateway_says_so,
}}

/// A run that no other test uses, also where the store is shared.
fn run() -> RunId {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    RunId(format!(
        "{}-{}",
        std::process::id(),
        RUNS.fetch_add(1, Ordering::Relaxed)
    ))
}

fn fact(run: &RunId, study: &str, field: &str, value: &str) -> Fact {
    Fact {
        run: run.clone(),
        study: study.into(),
        field: field.into(),
        value: value.into(),
        of: None,
    }
}

fn facts(pairs: &[(&str, &str)]) -> Facts {
    pairs
        .iter()
        .map(|(field, value)| (field.to_string(), value.to_string()))
        .collect::<BTreeMap<_, _>>()
}

async fn groups_of_queues_are_noted_once_and_listed_in_order(state: Arc<dyn State>) {
    // Other tests share the store, and note groups of their own.
    let own = run().0;
    let groups = ["b", "a", "b"].map(|name| format!("{name}-{own}").parse::<QueueGroup>());
    let groups = groups.map(Result::unwrap);
    for group in &groups {
        state.note_group(group).await.unwrap();
    }
    let listed = state.groups().await.unwrap();
    let listed = listed
        .into_iter()
        .filter(|group| group.as_str().ends_with(&own));
    let [b, a, _] = groups;
    assert_eq!(listed.collect::<Vec<_>>(), [a, b]);
}

async fn a_group_is_served_as_long_as_a_gateway_says_so(state: Arc<dyn State>) {
    let own = run().0;
    let [told, noted] = ["told", "noted"].map(|name| format!("{name}-{own}").parse::<QueueGroup>());
    let (told, noted) = (told.unwrap(), noted.unwrap());
    let is_served = async |group: &QueueGroup| state.is_served(group).await.unwrap();
    assert!(!is_served(&told).await);
    // Nobody says it of this one, as gateways of earlier releases do not.
    state.note_group(&noted).await.unwrap();
    assert!(is_served(&noted).await);
    assert!(state.forget_group(&noted).await.unwrap());
    assert!(!is_served(&noted).await);
    for _ in 0..2 {
        state.serve_group(&told, SOON).await.unwrap();
        assert!(is_served(&told).await);
        state.note_group(&told).await.unwrap();
        assert!(state.forget_group(&told).await.unwrap());
        assert!(is_served(&told).await);
        // It is over, whoever gives work to it.
        state.serve_group(&told, Duration::ZERO).await.unwrap();
        let is_over = || async { Ok(!state.is_served(&told).await?) };
        waiting::until("it is served", SOON, is_over).await.unwrap();
        state.note_group(&told).await.unwrap();
        assert!(!is_served(&told).await);
    }
}

async fn a_document_is_replaced_and_belongs_to_its_run(state: Arc<dyn State>) {
    let (run, other) = (run(), run());
    assert_eq!(state.document(&run, "spec").await.unwrap(), None);
    for value in ["one", "two"] {
        state
            .put_document(&run, "spec", value.into())
            .await
            .unwrap();
        assert_eq!(
            state.document(&run, "spec").await.unwrap().as_deref(),
            Some(value)
        );
    }
    assert_eq!(state.document(&run, "progress").await.unwrap(), None);
    assert_eq!(state.document(&other, "spec").await.unwrap(), None);
}

async fn of_several_writers_of_a_new_document_one_wins(state: Arc<dyn State>) {
    let run = run();
    let written = futures::future::join_all((0..8).map(|number| {
        let (state, run) = (state.clone(), run.clone());
        tokio::spawn(async move {
            let own = number.to_string();
            (own.clone(), state.create_document(&run, "spec", own).await)
        })
    }))
    .await;
    let document = state.document(&run, "spec").await.unwrap().unwrap();
    let mut winners = 0;
    for writer in written {
        let (own, there) = writer.unwrap();
        assert_eq!(there.unwrap(), document);
        winners += usize::from(own == document);
    }
    assert_eq!(winners, 1);
    let again = state.create_document(&run, "spec", "later".into()).await;
    assert_eq!(again.unwrap(), document);
    let other = state.create_document(&run, "progress", "p".into()).await;
    assert_eq!(other.unwrap(), "p");
}

async fn a_fact_is_written_once(state: Arc<dyn State>) {
    let run = run();
    state
        .begin(&[fact(&run, "s", "study", "spec")])
        .await
        .unwrap();
    let recorded = state
        .record(&[fact(&run, "s", "findings", "first")])
        .await
        .unwrap();
    assert_eq!(
        recorded,
        [Some(facts(&[("study", "spec"), ("findings", "first")]))]
    );
    let again = state
        .record(&[fact(&run, "s", "findings", "second")])
        .await
        .unwrap();
    assert_eq!(again, recorded);
}

async fn a_study_that_was_never_begun_takes_no_facts(state: Arc<dyn State>) {
    let run = run();
    assert_eq!(
        state
            .record(&[fact(&run, "s", "findings", "x")])
            .await
            .unwrap(),
        [None]
    );
    assert_eq!(state.exist(&run, &["s".into()]).await.unwrap(), [false]);
    assert_eq!(
        state.finish(&[fact(&run, "s", "", "line")]).await.unwrap(),
        [false]
    );
    assert_eq!(state.finished(&run, 10).await.unwrap(), [""; 0]);
}

async fn a_fact_of_a_study_as_it_was_before_is_not_written(state: Arc<dyn State>) {
    let run = run();
    let of = |description: &str| Fact {
        of: Some(description.into()),
        ..fact(&run, "s", "findings", description)
    };
    let record = async |fact: Fact| state.record(&[fact]).await.unwrap();
    assert_eq!(record(of("before")).await, [None]);
    // It ends, and is begun again as another.
    for description in ["before", "now"] {
        state.forget(&run, &"s".into()).await.unwrap();
        let begin = [fact(&run, "s", STUDY_FIELD, description)];
        state.begin(&begin).await.unwrap();
    }
    assert_eq!(record(of("before")).await, [None]);
    let own = facts(&[(STUDY_FIELD, "now"), ("findings", "now")]);
    assert_eq!(record(of("now")).await, [Some(own.clone())]);
    assert_eq!(record(of("now")).await, [Some(own)]);
    // Without its description it is none that anybody has seen.
    let bare = [fact(&run, "bare", "other", "x")];
    state.begin(&bare).await.unwrap();
    let of_none = Fact {
        of: Some("now".into()),
        ..fact(&run, "bare", "findings", "x")
    };
    assert_eq!(record(of_none).await, [None]);
}

async fn beginning_again_keeps_what_is_there(state: Arc<dyn State>) {
    let run = run();
    let begin = [
        fact(&run, "s", "study", "spec"),
        fact(&run, "t", "study", "spec"),
    ];
    state.begin(&begin).await.unwrap();
    state
        .record(&[fact(&run, "s", "findings", "x")])
        .await
        .unwrap();
    state.begin(&begin).await.unwrap();
    state
        .begin(&[
            fact(&run, "s", "study", "another"),
            fact(&run, "s", "language", "known"),
        ])
        .await
        .unwrap();
    let recorded = state
        .record(&[fact(&run, "s", "findings", "y")])
        .await
        .unwrap();
    assert_eq!(
        recorded,
        [Some(facts(&[
            ("study", "spec"),
            ("findings", "x"),
            ("language", "known")
        ]))]
    );
    assert_eq!(
        state
            .exist(&run, &["s".into(), "u".into(), "t".into()])
            .await
            .unwrap(),
        [true, false, true]
    );
}

async fn finishing_removes_the_study_and_appends_its_line_once(state: Arc<dyn State>) {
    let run = run();
    state
        .begin(&[fact(&run, "s", "study", "spec")])
        .await
        .unwrap();
    let line = fact(&run, "s", "", "line");
    assert_eq!(
        state.finish(&[line.clone(), line.clone()]).await.unwrap(),
        [true, false]
    );
    assert_eq!(state.finish(&[line]).await.unwrap(), [false]);
    assert_eq!(state.finished(&run, 10).await.unwrap(), ["line"]);
    assert_eq!(
        state.record(&[fact(&run, "s", "late", "x")]).await.unwrap(),
        [None],
        "a late result finds nothing"
    );
}

async fn finished_lines_are_read_and_discarded_in_order(state: Arc<dyn State>) {
    let run = run();
    for number in 0..5 {
        let study = number.to_string();
        state
            .begin(&[fact(&run, &study, "study", "spec")])
            .await
            .unwrap();
        state
            .finish(&[fact(&run, &study, "", &format!("line {number}"))])
            .await
            .unwrap();
    }
    assert_eq!(state.finished(&run, 2).await.unwrap(), ["line 0", "line 1"]);
    assert_eq!(state.finished(&run, 0).await.unwrap(), [""; 0]);
    state.discard_finished(&run, 0).await.unwrap();
    state.discard_finished(&run, 2).await.unwrap();
    assert_eq!(
        state.finished(&run, 100).await.unwrap(),
        ["line 2", "line 3", "line 4"]
    );
    state.discard_finished(&run, 100).await.unwrap();
    assert_eq!(state.finished(&run, 100).await.unwrap(), [""; 0]);
}

async fn a_run_that_has_ended_takes_no_line_until_it_is_opened_again(state: Arc<dyn State>) {
    let run = run();
    state.open_run(&run).await.unwrap();
    let begin = ["before", "after", "again"].map(|study| fact(&run, study, "study", "spec"));
    state.begin(&begin).await.unwrap();
    let finish = async |study: &str| {
        let line = fact(&run, study, "", study);
        state.finish(&[line]).await.unwrap()
    };
    assert_eq!(finish("before").await, [true]);
    for _ in 0..2 {
        state.end_run(&run).await.unwrap();
        assert_eq!(state.finished(&run, 100).await.unwrap(), [""; 0]);
    }
    assert_eq!(finish("after").await, [false]);
    assert_eq!(state.exist(&run, &["after".into()]).await.unwrap(), [false]);
    assert_eq!(state.finished(&run, 100).await.unwrap(), [""; 0]);

    state.open_run(&run).await.unwrap();
    assert_eq!(finish("again").await, [true]);
    assert_eq!(state.finished(&run, 100).await.unwrap(), ["again"]);
}

async fn a_forgotten_study_leaves_no_line_however_often_it_is_forgotten(state: Arc<dyn State>) {
    let run = run();
    let begin = [
        fact(&run, "s", "study", "spec"),
        fact(&run, "t", "study", "spec"),
    ];
    state.begin(&begin).await.unwrap();
    for study in ["s", "s", "never begun"] {
        state.forget(&run, &study.into()).await.unwrap();
    }
    let exist = state.exist(&run, &["s".into(), "t".into()]).await;
    assert_eq!(exist.unwrap(), [false, true]);
    assert_eq!(
        state.finish(&[fact(&run, "s", "", "line")]).await.unwrap(),
        [false]
    );
    assert_eq!(state.finished(&run, 10).await.unwrap(), [""; 0]);
}

async fn batches_answer_in_order_and_may_name_a_study_twice(state: Arc<dyn State>) {
    let (run, other) = (run(), run());
    state
        .begin(&[
            fact(&run, "s", "study", "a"),
            fact(&other, "s", "study", "b"),
        ])
        .await
        .unwrap();
    let batch = [
        fact(&other, "s", "x", "1"),
        fact(&run, "missing", "x", "2"),
        fact(&run, "s", "x", "3"),
        fact(&run, "s", "y", "4"),
    ];
    let expected = [
        Some(facts(&[("study", "b"), ("x", "1")])),
        None,
        Some(facts(&[("study", "a"), ("x", "3")])),
        Some(facts(&[("study", "a"), ("x", "3"), ("y", "4")])),
    ];
    assert_eq!(state.record(&batch).await.unwrap(), expected);
}

async fn racing_coordinators_see_each_fact_and_finish_once(state: Arc<dyn State>) {
    let run = run();
    state
        .begin(&[fact(&run, "s", "study", "spec")])
        .await
        .unwrap();
    let recorded = join_all((0..16).map(|number| {
        let (state, fact) = (state.clone(), fact(&run, "s", &format!("f{number}"), "x"));
        tokio::spawn(async move { state.record(&[fact]).await.unwrap().remove(0).unwrap() })
    }))
    .await;
    // Facts only grow: whoever wrote last saw all of them.
    assert!(recorded.into_iter().any(|facts| facts.unwrap().len() == 17));
    let finished = join_all((0..16).map(|number| {
        let (state, line) = (state.clone(), fact(&run, "s", "", &number.to_string()));
        tokio::spawn(async move { state.finish(&[line]).await.unwrap().remove(0) })
    }))
    .await;
    assert_eq!(
        finished
            .into_iter()
            .filter(|finished| *finished.as_ref().unwrap())
            .count(),
        1
    );
    assert_eq!(state.finished(&run, 10).await.unwrap().len(), 1);
}

async fn empty_batches_are_nothing(state: Arc<dyn State>) {
    state.begin(&[]).await.unwrap();
    assert_eq!(state.record(&[]).await.unwrap(), []);
    assert_eq!(state.finish(&[]).await.unwrap(), [false; 0]);
    assert_eq!(state.exist(&run(), &[]).await.unwrap(), [false; 0]);
}
