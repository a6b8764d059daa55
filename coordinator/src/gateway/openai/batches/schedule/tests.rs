//! Whose turn it is, worked through without a gateway.

use radialog_schemas::http::openai_batches::BatchEndpoint;

use super::*;
use crate::request_store::batches::BatchTimes;
use crate::request_store::new_name;

const ABANDONED_AFTER: Duration = Duration::from_secs(60);

fn named(owner: &str, name: &str) -> BatchName {
    BatchName {
        owner: ContentHash::of(owner.as_bytes()),
        name: name.to_owned(),
    }
}

fn free(owner: &str, name: &str, wanted: WantedWork) -> FreeBatch {
    FreeBatch {
        name: named(owner, name),
        wanted,
        abandoned: None,
        is_alone: false,
    }
}

/// A batch of the owner "a" that never expires.
fn document(batch: &str) -> BatchDocument {
    let times = BatchTimes {
        expires: u64::MAX,
        ..BatchTimes::default()
    };
    let endpoint = BatchEndpoint::ChatCompletions;
    BatchDocument::new(batch, "a".to_owned(), endpoint, new_name(), None, times)
}

#[test]
fn what_failed_last_is_ended_last_and_what_was_cancelled_before_what_is_late() {
    let (mut schedule, now) = (Schedule::new(ABANDONED_AFTER), Instant::now());
    let all = [
        free("a", "1", WantedWork::Expiry),
        free("a", "2", WantedWork::End),
        free("b", "3", WantedWork::Expiry),
        free("b", "4", WantedWork::End),
    ];
    schedule.rest(&all[1], now + Duration::from_secs(1));
    schedule.rest(&all[2], now);
    let mut order = Vec::new();
    schedule.note_ending(all.to_vec());
    while let Some(next) = schedule.next_to_end(now) {
        order.push((next.name.name, schedule.end_waits()));
    }
    let order: Vec<(&str, bool)> = order
        .iter()
        .map(|(name, waits)| (&**name, *waits))
        .collect();
    assert_eq!(order, [("4", true), ("1", true), ("3", true), ("2", false)]);
    schedule.forget_rest(&all[1].name);
    schedule.note_ending(all[..2].to_vec());
    assert_eq!(schedule.next_to_end(now).unwrap().name.name, "2");
}

#[test]
fn owners_take_turns_in_being_ended() {
    let (mut schedule, now) = (Schedule::new(ABANDONED_AFTER), Instant::now());
    let of = |owner: &str, name: &str| free(owner, name, WantedWork::End);
    let all = [of("a", "1"), of("a", "2"), of("a", "3"), of("b", "4")];
    schedule.note_ending(all.to_vec());
    let mut order = Vec::new();
    for second in 0..4 {
        let now = now + Duration::from_secs(second);
        order.push(schedule.next_to_end(now).unwrap().name.name);
    }
    assert_eq!(order, ["1", "4", "2", "3"]);
    assert_eq!((schedule.next_to_end(now), schedule.ends()), (None, 0));
}

#[test]
fn a_batch_that_does_not_get_on_rests_longer_each_time_unless_it_is_to_be_ended() {
    let mut schedule = Schedule::new(ABANDONED_AFTER);
    let batch = new_name();
    let mut document = document(&batch);
    let name = named("a", &batch);
    let begun = Instant::now();
    let mut now = begun;
    let mut rests = Vec::new();
    for _ in 0..8 {
        let free = schedule.free(&name, &document, "here", now).unwrap();
        schedule.rest(&free, now);
        let mut seconds = 0;
        while schedule.free(&name, &document, "here", now).is_none() {
            now += Duration::from_secs(1);
            seconds += 1;
        }
        rests.push(seconds);
    }
    assert!(
        rests[0] <= 5 && rests[7] > 30 && rests[7] <= 120,
        "{rests:?}"
    );
    let free = schedule.free(&name, &document, "here", now).unwrap();
    schedule.rest(&free, now);
    assert!(schedule.free(&name, &document, "here", now).is_none());
    document.status = RequestBatchStatus::Cancelling;
    let free = schedule.free(&name, &document, "here", now).unwrap();
    assert_eq!(free.wanted, WantedWork::End);
}

#[test]
fn no_owner_takes_all_places_aside() {
    let mut schedule = Schedule::new(ABANDONED_AFTER);
    let mut taken = Vec::new();
    for (owner, name) in ["a", "b", "c", "d"]
        .map(|owner| [1, 2, 3].map(|n| (owner, n)))
        .as_flattened()
    {
        let batch = free(owner, &format!("{owner}{name}"), WantedWork::Answers);
        schedule.begin(&batch);
        if schedule.step_aside(&batch.name) {
            taken.push(batch.name.name);
        }
    }
    assert_eq!(taken, ["a1", "a2", "b1", "b2", "c1", "c2"]);
    assert!(taken.len() == ASIDE && ASIDE_OF_ONE == 2);
    schedule.step_back(&named("a", "a1"));
    assert!(schedule.step_aside(&named("d", "d1")));
    assert!(!schedule.step_aside(&named("a", "a3")));
    schedule.end(&named("b", "b2"));
    assert!(schedule.step_aside(&named("a", "a3")));
}

#[test]
fn what_has_stepped_aside_or_is_only_ended_takes_no_turn_of_its_owner() {
    let mut schedule = Schedule::new(ABANDONED_AFTER);
    let answers = |owner: &str, name: &str| free(owner, name, WantedWork::Answers);
    for name in ["1", "2"] {
        let batch = answers("a", name);
        schedule.begin(&batch);
        assert!(schedule.step_aside(&batch.name));
    }
    schedule.begin(&free("a", "3", WantedWork::End));
    let running = [answers("b", "4"), answers("b", "5")];
    for batch in &running {
        schedule.begin(batch);
    }
    let waiting = vec![answers("b", "6"), answers("a", "7")];
    schedule.note_waiting(waiting.clone());
    assert!(!schedule.makes_room(&named("a", "1")), "it has none");
    assert!(schedule.makes_room(&running[0].name));
    schedule.end(&running[0].name);
    let mut free = waiting;
    assert_eq!(schedule.next(&mut free).unwrap().name.name, "7");
}

#[test]
fn what_has_stood_aside_counts_for_its_owner_only_when_it_has_a_place_again() {
    let mut schedule = Schedule::new(ABANDONED_AFTER);
    let answers = |owner: &str, name: &str| free(owner, name, WantedWork::Answers);
    // Of two with as many here, the first would come first.
    let (other, aside) = (answers("b", "1"), answers("a", "2"));
    schedule.begin(&other);
    schedule.begin(&aside);
    assert!(schedule.step_aside(&aside.name));
    schedule.step_back(&aside.name);
    let next = |schedule: &Schedule| {
        let mut waiting = vec![answers("b", "3"), answers("a", "4")];
        schedule.next(&mut waiting).unwrap().name.name
    };
    assert!(!schedule.any_aside());
    assert_eq!(next(&schedule), "4");
    schedule.come_back(&aside.name);
    assert_eq!(next(&schedule), "3");
}

#[test]
fn a_batch_makes_room_until_it_has_left_however_often_it_is_looked() {
    let mut schedule = Schedule::new(ABANDONED_AFTER);
    let of = |owner: &str, name: &str| free(owner, name, WantedWork::Answers);
    let [first, second] = [of("a", "1"), of("a", "2")];
    schedule.begin(&first);
    schedule.begin(&second);
    let waiting = vec![of("b", "3")];
    schedule.note_waiting(waiting.clone());
    assert!(schedule.makes_room(&first.name));
    for _ in 0..2 {
        // Its lines take longer than the looks are apart.
        schedule.note_waiting(waiting.clone());
        assert!(!schedule.makes_room(&second.name));
    }
    schedule.end(&first.name);
    assert!(
        !schedule.makes_room(&second.name),
        "nobody has got the first one's place yet"
    );
    schedule.begin(&first);
    schedule.note_waiting(waiting);
    assert!(
        schedule.makes_room(&second.name),
        "the first one is here anew"
    );
}

#[test]
fn owners_take_turns_and_each_ones_oldest_comes_first() {
    let mut schedule = Schedule::new(ABANDONED_AFTER);
    let free = |owner: &str, name: &str| free(owner, name, WantedWork::Answers);
    let all = [
        free("a", "1"),
        free("a", "2"),
        free("b", "4"),
        free("b", "3"),
    ];
    let (mut order, mut rest) = (Vec::new(), all.to_vec());
    while let Some(next) = schedule.next(&mut rest) {
        schedule.begin(&next);
        order.push(next.name.name);
    }
    assert_eq!(order, ["1", "3", "2", "4"]);
    // Whoever was served last comes last.
    for batch in &all {
        schedule.end(&batch.name);
    }
    let mut rest = all.to_vec();
    assert_eq!(schedule.next(&mut rest).unwrap().name.name, "1");
}

#[test]
fn one_makes_room_for_each_that_waits_and_none_for_those_who_have_as_many_here() {
    let mut schedule = Schedule::new(ABANDONED_AFTER);
    let of = |owner: &str, name: &str| free(owner, name, WantedWork::Answers);
    let all = [of("a", "1"), of("a", "2"), of("b", "3"), of("a", "4")];
    let [one, two, other] = [0, 1, 2].map(|place| all[place].name.clone());
    schedule.begin(&all[0]);
    schedule.begin(&all[1]);
    schedule.note_waiting(all[3..].to_vec());
    assert!(!schedule.makes_room(&one), "its own waits for an end");
    schedule.note_waiting(all[2..].to_vec());
    assert!(schedule.makes_room(&one));
    assert!(!schedule.makes_room(&two), "one leaves for one");
    schedule.end(&all[0].name);
    let mut rest = vec![all[0].clone(), all[2].clone(), all[3].clone()];
    assert_eq!(schedule.next(&mut rest).unwrap().name.name, "3");
    schedule.begin(&all[2]);
    schedule.note_waiting(rest);
    let make_room = [&two, &other].map(|name| schedule.makes_room(name));
    assert_eq!(make_room, [false, false], "each has one");
    assert!(schedule.any_waits());
}

#[test]
fn what_may_have_killed_its_holders_is_worked_on_alone_and_the_others_make_room() {
    let mut schedule = Schedule::new(Duration::ZERO);
    let batch = new_name();
    let mut document = document(&batch);
    let (name, now) = (named("a", &batch), Instant::now());
    let mut places = Vec::new();
    for holder in ["one", "two", "three"] {
        let free = schedule.free(&name, &document, "here", now).unwrap();
        places.push(free.places());
        assert!(document.hold(holder, free.abandoned.as_ref()));
    }
    assert_eq!(places, [1, 1, RUNNING]);
    let lonely = schedule.free(&name, &document, "here", now).unwrap();
    schedule.note_waiting(vec![lonely]);
    let other = free("a", "another one", WantedWork::Answers);
    schedule.begin(&other);
    assert!(
        schedule.makes_room(&other.name),
        "its owner's make room, too"
    );
    document.times.expires = 1;
    let late = schedule.free(&name, &document, "here", now).unwrap();
    assert!(
        !late.only_ends() && late.places() == RUNNING,
        "its lines are read"
    );
    document.status = RequestBatchStatus::Cancelling;
    let ending = schedule.free(&name, &document, "here", now).unwrap();
    assert!(ending.only_ends() && ending.places() == 1);
}

#[test]
fn a_lease_is_abandoned_when_it_was_seen_to_stand_still() {
    let (mut schedule, batch) = (Schedule::new(ABANDONED_AFTER), new_name());
    let name = named("a", &batch);
    let endpoint = BatchEndpoint::ChatCompletions;
    let times = BatchTimes::default();
    let mut document =
        BatchDocument::new(&batch, "a".to_owned(), endpoint, new_name(), None, times);
    let begun = Instant::now();
    let mut free = |document: &BatchDocument, halves: u32| {
        schedule.free(&name, document, "two", begun + halves * ABANDONED_AFTER / 2)
    };
    assert!(document.hold("one", None));
    assert_eq!(free(&document, 0), None);
    assert!(document.hold("one", None), "it is renewed");
    assert_eq!(free(&document, 1), None);
    assert_eq!(free(&document, 2), None);
    assert!(!document.hold("two", None));
    let taken = free(&document, 3).unwrap();
    let mut renewed = document.clone();
    assert!(renewed.hold("one", None));
    assert!(!renewed.hold("two", taken.abandoned.as_ref()));
    assert!(document.hold("two", taken.abandoned.as_ref()));
    assert!(free(&document, 3).is_some(), "it is its own");
}

#[test]
fn what_was_seen_of_a_lease_is_forgotten_when_it_is_taken() {
    let (mut schedule, batch) = (Schedule::new(ABANDONED_AFTER), new_name());
    let (name, mut document) = (named("a", &batch), document(&batch));
    let begun = Instant::now();
    assert!(document.hold("one", None));
    assert_eq!(schedule.free(&name, &document, "two", begun), None);
    let later = begun + ABANDONED_AFTER;
    let taken = schedule.free(&name, &document, "two", later).unwrap();
    schedule.begin(&taken);
    schedule.end(&name);
    // The same may stand there again: its holder was not dead, and has it once more.
    assert_eq!(schedule.free(&name, &document, "two", later), None);
    let at_last = later + ABANDONED_AFTER;
    assert_eq!(schedule.free(&name, &document, "two", at_last), Some(taken));
}
