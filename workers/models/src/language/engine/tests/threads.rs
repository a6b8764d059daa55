//! The threads that images share, and those of answers.

use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use super::*;

#[test]
fn answers_do_not_wait_for_the_threads_that_images_share() {
    let model = model(DType::F32);
    let held = Arc::new(Mutex::new(()));
    let holding = held.lock().unwrap();
    let (arrived, arrivals) = mpsc::channel();
    let gate = Arc::clone(&held);
    rayon::spawn_broadcast(move |_| {
        arrived.send(()).unwrap();
        drop(gate.lock());
    });
    // None of them takes anything else from here on.
    (0..rayon::current_num_threads()).for_each(|_| arrivals.recv().unwrap());
    let (said, answers) = mpsc::channel();
    let engine_thread = thread::spawn(move || {
        let mut engine = engine(&model, 3);
        admit(&mut engine, 0..3);
        said.send(finish(&mut engine).len()).unwrap();
    });
    // Only one that waits for them meets this end.
    let finished = answers.recv_timeout(Duration::from_secs(120));
    drop(holding);
    engine_thread.join().unwrap();
    assert_eq!(finished, Ok(3));
}
