use super::*;

fn wave(count: usize, step: f32) -> Vec<f32> {
    (0..count)
        .map(|index| 2.0 * (index as f32 * step).sin())
        .collect()
}

fn naive(heads: Heads<'_>, spans: &[Span], result: &mut [f32]) {
    let (row, width) = (heads.count * heads.width, heads.width);
    for (span, head) in spans
        .iter()
        .flat_map(|span| (0..heads.count).map(move |head| (span, head)))
    {
        let place = |index: usize| index * row + head * width;
        for query in span.queries.clone() {
            let score = |key: usize| {
                let product = |entry: usize| {
                    f64::from(heads.query[place(query) + entry])
                        * f64::from(heads.key[place(key) + entry])
                };
                (0..width).map(product).sum::<f64>() / (width as f64).sqrt()
            };
            let scores: Vec<f64> = span.keys.clone().map(|key| score(key).exp()).collect();
            let sum: f64 = scores.iter().sum();
            for entry in 0..width {
                let value = |(key, score): (usize, &f64)| {
                    score / sum * f64::from(heads.value[place(key) + entry])
                };
                result[place(query) + entry] =
                    span.keys.clone().zip(&scores).map(value).sum::<f64>() as f32;
            }
        }
    }
}

#[test]
fn attention_agrees_with_the_naive_one_over_odd_lengths() {
    for (count, width) in [(3, 5), (2, 64), (1, 300)] {
        let lengths = [1, 14, 33, 70, 300];
        let total: usize = lengths.iter().sum();
        let row = count * width;
        let (query, key, value) = (
            wave(total * row, 0.37),
            wave(total * row, 0.73),
            wave(total * row, 0.11),
        );
        let heads = Heads {
            query: &query,
            key: &key,
            value: &value,
            count,
            width,
        };
        let mut start = 0;
        let spans: Vec<Span> = lengths
            .map(|length| {
                start += length;
                Span {
                    queries: start - length..start,
                    keys: start - length..start,
                }
            })
            .into();
        let mut expected = vec![0f32; total * row];
        naive(heads, &spans, &mut expected);
        let mut first = Vec::new();
        for features in Features::each() {
            let mut found = vec![f32::NAN; total * row];
            attend_with(features, heads, &spans, &mut found);
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    (found - expected).abs() < 2e-5,
                    "{width}: {found}, {expected}"
                );
            }
            for span in &spans {
                let mut alone = vec![f32::NAN; total * row];
                attend_with(features, heads, std::slice::from_ref(span), &mut alone);
                let part = span.queries.start * row..span.queries.end * row;
                assert_eq!(alone[part.clone()], found[part]);
            }
            first.push(found);
        }
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            assert_eq!(first[0], first[1]);
        }
    }
}

#[test]
fn what_is_not_a_number_shows() {
    let (query, mut key) = (wave(40 * 8, 0.3), wave(40 * 8, 0.2));
    key[100] = f32::NAN;
    let heads = Heads {
        query: &query,
        key: &key,
        value: &query,
        count: 1,
        width: 8,
    };
    let mut found = vec![0f32; 40 * 8];
    attend(
        heads,
        &[Span {
            queries: 0..40,
            keys: 0..40,
        }],
        &mut found,
    );
    assert!(found.iter().all(|value| value.is_nan()));
}
