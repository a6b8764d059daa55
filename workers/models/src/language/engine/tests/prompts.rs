//! Batch work whose prompts begin alike: what is known of one is not computed again, and changes no token.

use super::*;

/// A question of `index` about one of two images, behind 70 positions that all questions about it share.
fn question(about: usize, index: usize) -> GenerationRequest {
    let mut prompt = vec![1, 17, 23, 5];
    prompt.extend([IMAGE; 4]);
    prompt.extend((0..62).map(|i| 40 + i * 3));
    prompt.extend([7 + index as u32, 9]);
    GenerationRequest {
        prompt,
        images: vec![image(about)],
        prompt_key: Some(about.to_string()),
        max_new_tokens: 4,
        ..request(index)
    }
}

/// What each says, and the number of steps that all took one after the other.
fn asked(model: &Arc<LanguageModel>, requests: Vec<GenerationRequest>) -> (Vec<Vec<u32>>, usize) {
    let mut engine = engine(model, 1);
    let (mut said, mut steps) = (Vec::new(), 0);
    for request in requests {
        engine.admit(request).unwrap();
        while !engine.is_idle() {
            steps += 1;
            for event in engine.step().unwrap() {
                if let EngineEvent::Finished { result, .. } = event {
                    said.push(result.unwrap().tokens);
                }
            }
        }
    }
    (said, steps)
}

#[test]
fn questions_about_one_image_read_their_common_beginning_once_and_say_what_each_says_alone() {
    for dtype in [DType::F32, DType::F16] {
        let model = model(dtype);
        let questions = || {
            [(0, 0), (0, 1), (0, 3), (1, 2), (1, 0)].map(|(about, index)| question(about, index))
        };
        let alone = questions().map(|question| GenerationRequest {
            prompt_key: None,
            ..question
        });
        let (expected, apart) = asked(&model, alone.into());
        let (said, together) = asked(&model, questions().into());
        assert_eq!(said, expected);
        // 72 positions take two steps; of three of the five questions, the rest takes one.
        assert_eq!(apart - together, 3);
    }
}

#[test]
fn kept_prompts_are_bounded_by_the_cache() {
    let model = model(DType::F32);
    let mut engine = engine(&model, 2);
    for about in 0..8 {
        engine.admit(question(about, 0)).unwrap();
    }
    finish(&mut engine);
    // An eighth of 1000 tokens holds one prompt of 72, which has pages for 96.
    assert_eq!(engine.prompt_caches.len(), 1);
}

#[test]
fn a_new_beginning_is_read_in_the_same_small_parts_as_everything_and_kept_once_it_is_known() {
    let model = model(DType::F32);
    let long = || {
        let mut prompt: Vec<u32> = (0..70).map(|i| 20 + i * 3).collect();
        prompt.extend([IMAGE; 4]);
        prompt.extend([7, 9]);
        GenerationRequest {
            prompt,
            max_new_tokens: 4,
            ..request(0)
        }
    };
    let mut engine = engine(&model, 3);
    let steps = |engine: &mut Engine, id: SequenceId| {
        for step in 1.. {
            let events = engine.step().unwrap();
            let said = |event: &EngineEvent| matches!(event, EngineEvent::Token { sequence, .. } if *sequence == id);
            if events.iter().any(said) {
                return step;
            }
        }
        0
    };
    let other = engine.admit(request(0)).unwrap();
    steps(&mut engine, other);
    // One that is cancelled before its beginning is known leaves nothing behind.
    let cancelled = engine.admit(long()).unwrap();
    engine.step().unwrap();
    engine.cancel(cancelled);
    assert_eq!(engine.shared_prefixes.len(), 1);
    // 64 positions, then the 6 that are left of the beginning with what follows it.
    let first = engine.admit(long()).unwrap();
    assert_eq!(steps(&mut engine, first), 2);
    assert_eq!(engine.shared_prefixes.len(), 2);
    let second = engine.admit(long()).unwrap();
    assert_eq!(steps(&mut engine, second), 1);
    let answers = finish(&mut engine);
    let of = |id: SequenceId| answers.iter().find(|(found, _)| *found == id).unwrap();
    assert_eq!(of(first).1, of(second).1);
    assert_eq!(of(other).1, alone(&model, 0));
}
