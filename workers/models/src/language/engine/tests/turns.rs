//! Turns of conversations beside other sequences.

use super::*;

const CHAT: ChatLimits = ChatLimits {
    sequences: 1,
    cache_tokens: 96,
    kept_tokens: 1000,
};

fn with_chat(model: &Arc<LanguageModel>, sequences: usize, chat: ChatLimits) -> Engine {
    Engine::new(
        Arc::clone(model),
        EngineLimits {
            sequences,
            cache_tokens: 1000,
            chat,
            speculate: 0,
        },
    )
}

/// The request as a turn, with so many tokens written elsewhere.
fn turn(request: GenerationRequest, written: &[u32]) -> GenerationRequest {
    GenerationRequest {
        turn_key: Some("image".into()),
        generated: written.to_vec(),
        ..request
    }
}

/// The prompt of the turn after this one.
fn follow(request: &GenerationRequest, answer: &[u32]) -> GenerationRequest {
    let prompt = [request.prompt.as_slice(), answer, &[2, 60, 61, 62]].concat();
    turn(
        GenerationRequest {
            prompt,
            images: request.images.clone(),
            max_new_tokens: 8,
            ..super::request(1)
        },
        &[],
    )
}

fn answer(engine: &mut Engine, request: GenerationRequest) -> Completion {
    engine.admit(request).unwrap();
    finish(engine).remove(0).1
}

/// The sequences that start, in their order.
fn starts(engine: &mut Engine) -> Vec<SequenceId> {
    let mut order = Vec::new();
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            if let EngineEvent::Token { sequence, .. } = event
                && !order.contains(&sequence)
            {
                order.push(sequence);
            }
        }
    }
    order
}

#[test]
fn a_turn_starts_before_all_that_waits() {
    let model = model(DType::F32);
    let mut engine = with_chat(&model, 2, CHAT);
    let others = admit(&mut engine, 0..4);
    let turns = [0, 1].map(|index| engine.admit(turn(request(index), &[])).unwrap());
    let order = starts(&mut engine);
    assert_eq!(order[..2], turns);
    assert_eq!(order[2..], others);
}

#[test]
fn other_sequences_leave_a_place_and_a_whole_context_to_turns() {
    let model = model(DType::F32);
    let mut engine = with_chat(&model, 4, CHAT);
    admit(&mut engine, 0..6);
    (0..6).for_each(|_| drop(engine.step().unwrap()));
    assert_eq!(
        (
            engine.running(),
            engine.free_chat_slots(),
            engine.free_slots()
        ),
        (3, 1, 0)
    );
    engine.admit(turn(request(0), &[])).unwrap();
    assert_eq!(
        (engine.free_chat_slots(), engine.free_slots()),
        (0, 0),
        "a turn waits"
    );
    engine.step().unwrap();
    assert_eq!(engine.running(), 4);

    // Room for one context beside the reserved one: a second sequence waits, a turn does not.
    let limits = EngineLimits {
        sequences: 8,
        cache_tokens: 96 + 30,
        chat: CHAT,
        speculate: 0,
    };
    let mut engine = Engine::new(model, limits);
    let long = || GenerationRequest {
        max_new_tokens: 500,
        ..request(0)
    };
    assert!(matches!(
        engine.admit(long()),
        Err(LanguageError::CacheLimit { limit: 30, .. })
    ));
    admit(&mut engine, [0, 0]);
    engine.admit(turn(long(), &[])).unwrap();
    (0..3).for_each(|_| drop(engine.step().unwrap()));
    assert_eq!(engine.running(), 2, "the turn and one other");
    finish(&mut engine);
}

#[test]
fn while_a_turn_waits_for_its_cache_nothing_else_starts() {
    let model = model(DType::F32);
    let limits = EngineLimits {
        sequences: 8,
        cache_tokens: 96 + 30,
        chat: CHAT,
        speculate: 0,
    };
    let mut engine = Engine::new(model, limits);
    let long = || {
        turn(
            GenerationRequest {
                max_new_tokens: 500,
                ..request(0)
            },
            &[],
        )
    };
    let turns = [long(), long()].map(|turn| engine.admit(turn).unwrap());
    let others = admit(&mut engine, [0]);
    let order = starts(&mut engine);
    assert_eq!(
        order,
        [turns[0], turns[1], others[0]],
        "the second turn and the other would not fit together"
    );
}

#[test]
fn a_follow_up_says_the_same_whether_its_beginning_is_known_or_not() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let model = model(dtype);
        let mut knowing = with_chat(&model, 2, CHAT);
        let first = answer(&mut knowing, turn(request(3), &[]));
        assert_eq!(
            (first.cached, &first.tokens),
            (0, &alone(&model, 3).tokens),
            "{dtype:?}"
        );
        // One that goes on with the answer's own ids, one that changes them, one without them.
        let changed: Vec<u32> = first.tokens.iter().map(|id| (id + 1) % 200).collect();
        let prompt = request(3).prompt.len();
        for (said, known) in [
            (first.tokens.as_slice(), prompt + first.tokens.len() - 1),
            (&changed, prompt),
            (&[], prompt),
        ] {
            let next = follow(&request(3), said);
            let fresh = answer(&mut with_chat(&model, 2, CHAT), follow(&request(3), said));
            let second = answer(&mut knowing, next);
            assert_eq!(
                (second.cached, second.tokens),
                (known, fresh.tokens),
                "{dtype:?}"
            );
        }
    }
}

#[test]
fn logits_behind_a_copied_beginning_have_the_same_bytes() {
    let model = model(DType::F16);
    let ids = &request(6).prompt;
    let input = model.embed(ids, &[image(6)]).unwrap();
    let mut whole = model.cache(40).unwrap();
    let hidden = model
        .forward(
            &input,
            &mut [SequenceChunk {
                cache: &mut whole,
                len: ids.len(),
            }],
        )
        .unwrap();
    let expected = bits(
        &model
            .logits(&hidden.narrow(0, ids.len() - 1, 1).unwrap())
            .unwrap(),
    );
    for known in 1..ids.len() {
        let mut cache = model.cache(50).unwrap();
        cache.copy_from(&whole, known).unwrap();
        let (rest, len) = (
            input.narrow(0, known, ids.len() - known).unwrap(),
            ids.len() - known,
        );
        let hidden = model
            .forward(
                &rest,
                &mut [SequenceChunk {
                    cache: &mut cache,
                    len,
                }],
            )
            .unwrap();
        assert_eq!(
            bits(
                &model
                    .logits(&hidden.narrow(0, len - 1, 1).unwrap())
                    .unwrap()
            ),
            expected,
            "{known} known"
        );
    }
}

#[test]
fn images_of_another_name_share_nothing_and_an_image_is_never_cut() {
    let model = model(DType::F32);
    let mut engine = with_chat(&model, 1, CHAT);
    answer(&mut engine, turn(request(0), &[]));
    let mut other = follow(&request(0), &[]);
    other.images = vec![image(5)];
    other.turn_key = Some("another".into());
    assert_eq!(answer(&mut engine, other).cached, 0);

    // Two images where there was one: the second block begins where the known prompt has a word.
    let mut two = follow(&request(0), &[]);
    two.prompt.splice(8..8, [IMAGE; 4]);
    two.images = vec![image(0), image(4)];
    let fresh = |two: &GenerationRequest| {
        let request = GenerationRequest {
            prompt: two.prompt.clone(),
            images: two.images.clone(),
            ..super::request(1)
        };
        answer(
            &mut with_chat(&model, 1, CHAT),
            turn(
                GenerationRequest {
                    max_new_tokens: 8,
                    ..request
                },
                &[],
            ),
        )
    };
    let expected = fresh(&two).tokens;
    let found = answer(&mut engine, two);
    assert_eq!(
        (found.cached, found.tokens),
        (4, expected),
        "what stands before both images"
    );
}

#[test]
fn an_answer_goes_on_behind_tokens_that_were_written_elsewhere() {
    let model = model(DType::F32);
    for index in [2, 3] {
        let whole = alone(&model, index);
        let end = whole.tokens.len();
        for cut in 0..=end {
            let mut engine = with_chat(&model, 2, CHAT);
            let id = engine
                .admit(turn(request(index), &whole.tokens[..cut]))
                .unwrap();
            let mut new = Vec::new();
            let mut completion = None;
            while !engine.is_idle() {
                for event in engine.step().unwrap() {
                    match event {
                        EngineEvent::Token { token, .. } => new.push(token),
                        EngineEvent::Finished { sequence, result } => {
                            assert_eq!(sequence, id);
                            completion = Some(result.unwrap());
                        }
                    }
                }
            }
            assert_eq!(completion, Some(whole.clone()), "cut after {cut}");
            assert_eq!(new, whole.tokens[cut..], "only new tokens are reported");
        }
    }
}

#[test]
fn a_turn_that_was_cancelled_is_known_when_it_comes_again() {
    let model = model(DType::F32);
    let mut engine = with_chat(&model, 1, CHAT);
    let id = engine.admit(turn(request(2), &[])).unwrap();
    (0..5).for_each(|_| drop(engine.step().unwrap()));
    engine.cancel(id);
    assert!(engine.is_idle());
    let whole = alone(&model, 2);
    let again = answer(&mut engine, turn(request(2), &whole.tokens[..3]));
    assert_eq!(
        (again.cached, again.tokens),
        (request(2).prompt.len(), whole.tokens)
    );
}

#[test]
fn kept_caches_stay_within_their_limit_and_the_oldest_goes() {
    let model = model(DType::F32);
    let mut engine = with_chat(
        &model,
        1,
        ChatLimits {
            kept_tokens: 100,
            ..CHAT
        },
    );
    let of = |name: &str| {
        let mut request = turn(request(0), &[]);
        request.turn_key = Some(name.into());
        request
    };
    // A prompt of 11 tokens and an answer of 12 take a page of 32, so three fit.
    for name in ["a", "b", "c", "a", "d"] {
        answer(&mut engine, of(name));
    }
    let known = ["a", "d", "b", "c"].map(|name| answer(&mut engine, of(name)).cached > 0);
    assert_eq!(
        known,
        [true, true, false, false],
        "d pushed b out, and b pushed c out"
    );
    let mut none = with_chat(
        &model,
        1,
        ChatLimits {
            kept_tokens: 0,
            ..CHAT
        },
    );
    let cached = [0; 2].map(|_| answer(&mut none, of("a")).cached);
    assert_eq!(cached, [0, 0]);
}

#[test]
fn a_turn_that_is_cancelled_while_its_prompt_is_read_leaves_what_was_read_and_nothing_empty() {
    let config = LlamaConfig {
        max_position_embeddings: 400,
        ..model(DType::F32).config().clone()
    };
    let weights = VarBuilder::from_backend(Box::new(Noise), DType::F32, Device::Cpu);
    let model = Arc::new(LanguageModel::load(&config, &weights, None).unwrap());
    let mut engine = with_chat(&model, 2, CHAT);
    let prompt: Vec<u32> = (0..3 * starting::POSITIONS as u32)
        .map(|i| 20 + i * 7 % 200)
        .collect();
    let long = || {
        let request = GenerationRequest {
            prompt: prompt.clone(),
            max_new_tokens: 2,
            ..GenerationRequest::default()
        };
        turn(request, &[])
    };
    let waiting = engine.admit(long()).unwrap();
    engine.cancel(waiting);
    let id = engine.admit(long()).unwrap();
    engine.step().unwrap();
    engine.cancel(id);
    let again = answer(&mut engine, long());
    assert_eq!(again.cached, starting::POSITIONS);
    let mut fresh = with_chat(&model, 2, CHAT);
    assert_eq!(again.tokens, answer(&mut fresh, long()).tokens);
}
