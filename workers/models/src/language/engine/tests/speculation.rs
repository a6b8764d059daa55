//! Drafts of what a sequence may say next: they change when a token comes, and never which.

use super::*;

fn speculating(model: &Arc<LanguageModel>, sequences: usize, speculate: usize) -> Engine {
    let limits = EngineLimits {
        sequences,
        cache_tokens: 1000,
        chat: ChatLimits {
            kept_tokens: 1000,
            ..ChatLimits::default()
        },
        speculate,
    };
    Engine::new(Arc::clone(model), limits)
}

/// A request whose prompt and answer repeat themselves, as corrections do, greedy and drawn in turn.
fn repeating(index: usize, max_new_tokens: usize) -> GenerationRequest {
    let mut request = request(index);
    request.prompt.extend([40, 41, 42, 43, 44, 45, 40, 41]);
    request.sampling.top_p = Some(0.3);
    GenerationRequest {
        max_new_tokens,
        ..request
    }
}

/// All tokens in the order in which they are reported, the completions, and the number of steps.
fn run(engine: &mut Engine) -> (Vec<Vec<u32>>, Vec<(SequenceId, Completion)>, usize) {
    let (mut said, mut completions, mut steps) = (Vec::new(), Vec::new(), 0);
    while !engine.is_idle() {
        steps += 1;
        for event in engine.step().unwrap() {
            match event {
                EngineEvent::Token { sequence, token } => {
                    let SequenceId(place) = sequence;
                    let place = place as usize;
                    if said.len() <= place {
                        said.resize(place + 1, Vec::new());
                    }
                    said[place].push(token);
                }
                EngineEvent::Finished { sequence, result } => {
                    completions.push((sequence, result.unwrap()));
                }
            }
        }
    }
    completions.sort_by_key(|(id, _)| *id);
    (said, completions, steps)
}

#[test]
fn greedy_and_drawn_answers_are_the_same_with_and_without_drafts_alone_and_together() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let model = model(dtype);
        for sequences in [1, 2, 7] {
            let answers = [0, 1, 3, 16].map(|speculate| {
                let mut engine = speculating(&model, sequences, speculate);
                for index in 0..7 {
                    engine.admit(repeating(index, 50)).unwrap();
                }
                let (said, completions, steps) = run(&mut engine);
                let drafts = engine.take_drafts();
                let drafting = speculate > 0 && sequences <= MOST_DRAFTING;
                let seen = drafts.accepted > 0;
                assert!(seen == drafting || sequences > MOST_DRAFTING, "{drafts:?}");
                (said, completions, steps)
            });
            let [(said, completions, plain), others @ ..] = answers;
            for (found, other, steps) in others {
                assert_eq!(
                    (found, other),
                    (said.clone(), completions.clone()),
                    "{dtype:?}"
                );
                // Together they end with the one that repeats itself least.
                assert!(
                    steps <= plain && (sequences > 1 || steps < plain),
                    "{steps} of {plain}"
                );
            }
        }
    }
}

#[test]
fn nothing_is_drafted_while_more_sequences_run_than_drafts_pay_for() {
    let model = model(DType::F32);
    let mut engine = speculating(&model, 3, 16);
    let ids = [0, 2, 4].map(|index| engine.admit(repeating(index, 60)).unwrap());
    while engine.running() < ids.len() {
        engine.step().unwrap();
    }
    engine.take_drafts();
    (0..8).for_each(|_| drop(engine.step().unwrap()));
    assert_eq!(engine.take_drafts(), Drafts::default());
    engine.cancel(ids[2]);
    (0..8).for_each(|_| drop(engine.step().unwrap()));
    assert!(engine.take_drafts().drafted > 0);
}

#[test]
fn drafts_never_go_beyond_the_limit_of_an_answer_or_the_context() {
    let model = model(DType::F32);
    for max_new_tokens in 1..12 {
        let answer = |speculate| {
            let mut engine = speculating(&model, 1, speculate);
            engine.admit(repeating(0, max_new_tokens)).unwrap();
            run(&mut engine).1.remove(0).1
        };
        assert_eq!(answer(16), answer(0));
        assert_eq!(answer(16).tokens.len(), max_new_tokens);
    }
    let mut engine = speculating(&model, 1, 16);
    let request = repeating(0, 500);
    let room = 96 - request.prompt.len();
    engine.admit(request).unwrap();
    assert_eq!(run(&mut engine).1[0].1.tokens.len(), room);
}

#[test]
fn the_end_token_ends_an_answer_in_the_middle_of_a_draft() {
    let plain = model(DType::F32);
    let whole = {
        let mut engine = speculating(&plain, 1, 0);
        engine.admit(repeating(0, 50)).unwrap();
        run(&mut engine).1.remove(0).1.tokens
    };
    for &end in &whole[10..] {
        let config = LlamaConfig {
            eos_token_id: end,
            ..plain.config().clone()
        };
        let weights = VarBuilder::from_backend(Box::new(Noise), DType::F32, Device::Cpu);
        let ending = Arc::new(LanguageModel::load(&config, &weights, None).unwrap());
        let answers = [0, 16].map(|speculate| {
            let mut engine = speculating(&ending, 1, speculate);
            engine.admit(repeating(0, 50)).unwrap();
            run(&mut engine)
        });
        let [(said, completions, _), (found, others, _)] = answers;
        assert_eq!((found, others), (said, completions));
    }
}

#[test]
fn what_a_turn_leaves_behind_holds_no_draft_that_was_wrong() {
    let model = model(DType::F32);
    let turn = |request: GenerationRequest| GenerationRequest {
        turn_key: Some("image".into()),
        ..request
    };
    for index in 0..4 {
        let answers = [0, 16].map(|speculate| {
            let mut engine = speculating(&model, 1, speculate);
            engine.admit(turn(repeating(index, 20))).unwrap();
            let first = run(&mut engine).1.remove(0).1;
            let mut next = repeating(index, 20);
            next.prompt.extend(&first.tokens);
            next.prompt.extend([2, 60, 61]);
            engine.admit(turn(next)).unwrap();
            let second = run(&mut engine).1.remove(0).1;
            assert!(second.cached > first.tokens.len());
            (first, second)
        });
        assert_eq!(answers[0], answers[1]);
    }
}
