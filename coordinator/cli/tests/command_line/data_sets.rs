//! Data sets by the command line: what is asked for, and one made step by step.

use super::{radialog, text};

#[test]
fn weak_pairs_are_called_weak_and_no_reference() {
    let help = text(&radialog(&["prepare", "pairs", "--help"]).stdout);
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        help.contains("WEAK") && help.contains("never a reference"),
        "{help}"
    );
}

#[test]
fn data_sets_of_the_language_model_need_pairs_or_the_tables_of_the_original() {
    let output = radialog(&["prepare", "reports", "--out", "x.json"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(
        text(&output.stderr).contains("--sectioned"),
        "{}",
        text(&output.stderr)
    );
    let output = radialog(&[
        "prepare", "reports", "--pairs", "p.csv", "--labels", "l.csv", "--out", "x.json",
    ]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output.stderr));
}

#[test]
fn open_data_becomes_a_data_set_step_by_step() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let reports = "study_id,split,mesh,findings,impression\n\
        CXR1,train,Cardiomegaly,The heart is enlarged. No effusion.,Cardiomegaly.\n\
        CXR2,train,normal,Clear lungs. No effusion.,No acute disease.\n";
    std::fs::write(path("open.csv"), reports).unwrap();
    let done = |arguments: &[&str]| {
        let output = radialog(&[&["prepare"], arguments].concat());
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    };
    let printed = done(&["openi", &path("open.csv"), "--out", &path("reports.csv")]);
    assert!(
        printed.contains("2 reports written") && printed.contains("Cardiomegaly"),
        "{printed}"
    );
    std::fs::create_dir(path("images")).unwrap();
    for name in ["a.png", "b.png"] {
        std::fs::write(path(&format!("images/{name}")), "").unwrap();
    }
    std::fs::write(
        path("labels.csv"),
        "image,split,nih_labels\na.png,train,No Finding\nb.png,train,Cardiomegaly\n",
    )
    .unwrap();
    done(&["nih", &path("labels.csv"), "--out", &path("images.csv")]);
    let images = ["--images", &path("images.csv"), &path("images")];
    let printed = done(
        &[
            &[
                "pairs",
                "--reports",
                &path("reports.csv"),
                "--out",
                &path("pairs.csv"),
            ],
            images.as_slice(),
        ]
        .concat(),
    );
    assert!(
        printed.contains("2 weak pairs (for training only)"),
        "{printed}"
    );
    let pairs = std::fs::read_to_string(path("pairs.csv")).unwrap();
    assert!(
        pairs.lines().nth(1).unwrap().contains("b.png")
            && pairs.lines().nth(2).unwrap().contains("a.png"),
        "{pairs}"
    );
    let texts = format!("{}:findings", path("reports.csv"));
    done(&[
        "tokenizer",
        "--kind",
        "bpe",
        "--texts",
        &texts,
        "--vocab",
        "400",
        "--out",
        &path("tokenizer.json"),
    ]);
    let printed = done(&[
        "reports",
        "--pairs",
        &path("pairs.csv"),
        "--each-image",
        "--out",
        &path("reports.json"),
    ]);
    assert!(
        printed.contains("2 of 2 rows are used") && printed.contains("each of 2 images once"),
        "{printed}"
    );
    // The original's selection takes one image without findings for 13 with: here, none.
    let train = |out: &str, split: &str| {
        let of = [
            "reports",
            "--pairs",
            &path("pairs.csv"),
            "--split",
            split,
            "--out",
            &path(out),
        ];
        radialog(&[&["prepare"], of.as_slice()].concat())
    };
    let printed = text(&train("selected.json", "train").stdout);
    assert!(
        printed.contains("1 image with findings 2 times, 0 of 1 without"),
        "{printed}"
    );
    let none = train("none.json", "test");
    assert!(!none.status.success());
    assert!(
        text(&none.stderr).contains("0 of 2 rows are used: 2 of another split"),
        "{}",
        text(&none.stderr)
    );
    done(&[
        "tasks",
        "--reports",
        &path("pairs.csv"),
        "--out",
        &path("tasks"),
    ]);
    let printed = done(&[
        "instruct",
        "--pairs",
        &path("pairs.csv"),
        "--tasks",
        &path("tasks"),
        "--each-image",
        "--questions",
        "3",
        "--out",
        &path("instruct.json"),
    ]);
    assert!(
        printed.contains("SU             2  read") && printed.contains("CPbQA          6  made"),
        "{printed}"
    );
}
