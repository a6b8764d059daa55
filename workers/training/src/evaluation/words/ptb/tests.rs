use std::fs;

use super::*;

#[test]
fn words_are_split_as_by_stanfords_lexer_and_punctuation_is_dropped() {
    for (text, words) in [
        (
            "The 9-mm (nodule), it's; don't. cannot",
            "the 9-mm -lrb- nodule -rrb- it 's do n't can not",
        ),
        (
            "Dr. Smith approx. 2 cm. Approx. p.m. and No. 7 vs. no.",
            "dr. smith approx 2 cm approx p.m. and no. 7 vs. no",
        ),
        (
            "pneumonia.The lungs PA/lateral. 12/03/2012 12:30 5x3",
            "pneumonia.the lungs pa/lateral 12/03/2012 12:30 5x3",
        ),
        (
            "... . -- \"quoted\" ___ <s> 50% A/P",
            "quoted ___ <s> 50 % a/p",
        ),
        (
            "DR. ROE sees Pa. Next Wed. Then the mass. No. 2 etc.",
            "dr. roe sees pa. next wed. then the mass no. 2 etc.",
        ),
        (
            "1. Clear CXR. 2., mild; no recent CXR.; A&P a_b 5_6-c R&amp;B",
            "1 clear cxr 2. mild no recent cxr. a&p a_b 5_6-c r&b",
        ),
        (
            "clear?? No!! what?! so? yes… a",
            "clear ?? no !! what ?! so yes a",
        ),
        // What is pasted from pages and word processors.
        ("mid‐lung T1‑T2 a‐ b ‐", "mid‐lung t1‑t2 a b"),
        ("5µm 5-µm é-b a5é 5.5µm", "5µm 5-µm é-b a5é 5.5 µm"),
        (
            "left\u{ad}lung mid\u{ad}-lung a \u{ad} b \u{ad}x",
            "leftlung mid-lung a b x",
        ),
        (
            "left\u{200b}lung is \u{200b}clear\u{feff}",
            "left lung is clear",
        ),
        (
            "notⅧ clear 🫁 𝐀b \u{f0b7}Clear No.\u{200b} 7",
            "not clear b clear no 7",
        ),
        ("mm² 5² 10³/µL 3×4µm 1½", "mm ² 5 ² 10 ³ / µl 3 × 4µm 1 1/2"),
        // Apostrophes.
        (
            "it’sactive it'sactive don'tgo O’Brien's B'll y'all rock'n'roll '55 “x”’",
            "it 's active it sactive do n'tgo o’brien 's b 'll y' all rock 'n' roll '55 x '''",
        ),
        // Addresses and names of files.
        (
            "see http://a.b/c, example.com/a/b. (dr.x@hospital.org) 1.2.x 1.2.y a_1.jpg",
            "see http://a.b/c example.com/a/b -lrb- dr.x@hospital.org -rrb- 1.2.x 1.2 y a_1 jpg",
        ),
        (
            "US$5 £5 5€ 5¢ a$5 ##5 C#",
            "us$ 5 # 5 5 $ 5 cents a $ 5 ## 5 c#",
        ),
        (
            "a \u{301}b, 5\u{301} \u{301}.,",
            "a \u{301}b 5 \u{301} \u{301}.",
        ),
        // Brackets of a text that was split before.
        (
            "Cardiac and -lrb- mediastinal -RRB- -lrb-left-rrb- a -Lsb- b",
            "cardiac and -lrb- mediastinal -rrb- -lrb- left-rrb a -lsb- b",
        ),
        (
            "a -LRB-b 5-LRB- x -lrb-5 (-lrb- --lrb- -RCB--LCB- b-lrb-b",
            "a -lrb- b 5-lrb x -lrb- 5 -lrb- -lrb- lrb -rcb- -lcb- b-lrb-b",
        ),
        ("", ""),
    ] {
        assert_eq!(ptb_words(text).join(" "), words, "{text}");
    }
}

#[test]
fn what_lies_ahead_changes_no_word() {
    let parts = [
        "aaaa,",
        "a-b,",
        "x@y.z,",
        "<j@a.b>",
        "&lt;j@a.b&gt;",
        "1.5,2-c",
        "it's",
        "(",
        "@",
        "@.",
        "9-mm",
        "-!",
        "\u{ad}-q",
        "%.",
        "www.",
        "www.a1.",
        ".com",
        "net.",
        "ORG/a.",
        "a1.pdf",
        ".x",
        "<a b",
        "</a>",
        "<!a",
        ">",
        ". ",
        "\n",
    ];
    for first in parts {
        for second in parts {
            for third in parts {
                let text = format!("{first}{second}{third}");
                let mut tokens = Vec::new();
                let mut rest = text.as_str();
                let ahead = Ahead::everything();
                while let Some(first) = rest.chars().next() {
                    rest = match first.is_whitespace() {
                        true => &rest[first.len_utf8()..],
                        false => &rest[next(rest, first, &ahead, &mut tokens)..],
                    };
                }
                tokens.retain(|token| !DROPPED.contains(&token.as_str()));
                assert_eq!(ptb_words(&text), tokens, "{text}");
            }
        }
    }
}

#[test]
fn a_long_text_without_blanks_is_split_in_its_words() {
    for (part, words) in [("aaaa,", 20_000), ("a(b", 40_001)] {
        assert_eq!(ptb_words(&part.repeat(20_000)).len(), words, "{part}");
    }
}

/// So many nanoseconds may pass before more of them are told.
const STEP: f64 = 20e6;

/// The processor's time that this thread has had, in nanoseconds: waiting for a busy machine is none of it.
fn spent() -> f64 {
    let told = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    told.split(' ').next().unwrap().parse().unwrap()
}

/// Sixteen times the text takes sixteen times as long, and not 256 times.
#[test]
fn no_text_takes_the_square_of_its_length() {
    // What is looked for from each of these places on and does not come, or comes with the last part only.
    let odd = [
        ("%.", ""),
        ("5a.", ""),
        ("%.a ", "x.com"),
        ("www.1%", ""),
        ("www.1/", ",,"),
        ("<a ", ""),
        ("<!a ", "\n>"),
        ("a,", "-!"),
        ("a,", "@."),
        ("a,", "@.@"),
        ("http://,", ""),
        ("a's.", ""),
        ("é.", ""),
        ("é ", ""),
        ("3 cm (2). ", ""),
        (".%..", ""),
    ];
    for (part, end) in odd {
        let cost = |times: usize| {
            let text = part.repeat(times) + end;
            let measured = (0..3).map(|_| {
                let begun = spent();
                std::hint::black_box(ptb_words(&text));
                spent() - begun
            });
            measured.fold(f64::INFINITY, f64::min)
        };
        let ratio = cost(64_000) / cost(4_000).max(STEP);
        assert!(ratio < 64.0, "{part}: {ratio:.0} times as long");
    }
}
