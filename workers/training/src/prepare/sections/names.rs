//! Section names as radiologists type them, and the few that they mean. The table is the original's, with its spelling
//! mistakes and its one slip (`ndication`, a misspelt indication, counts as an impression).

/// Names by what they become. Exact matches go first.
const EXACT: &[(&str, &[&str])] = &[
    ("preamble", &["preamble"]),
    (
        "impression",
        &[
            "impression",
            "conclusion",
            "findings and impression",
            "findings/impression",
            "findings/ impression",
            "ndication",
            "impresson",
            "imprression",
            "imoression",
            "impressoin",
            "imprssion",
            "impresion",
            "imperssion",
            "mpression",
            "impession",
        ],
    ),
    (
        "findings",
        &[
            "findings",
            "chest, two views",
            "finding",
            "findins",
            "findindgs",
            "findgings",
            "findngs",
            "findnings",
            "finidngs",
            "reference findings",
        ],
    ),
    (
        "comparison",
        &[
            "comparison",
            "comparisons",
            "reference exam",
            "comparison exam",
            "comparison film",
            "comparision",
            "comparsion",
            "comparrison",
            "comparisions",
        ],
    ),
    (
        "indication",
        &[
            "indication",
            "reason for examination",
            "reason for exam",
            "clinical indication",
            "idication",
        ],
    ),
    (
        "examination",
        &["examination", "exam", "type of examination"],
    ),
    ("technique", &["technique"]),
    (
        "history",
        &[
            "history",
            "clinical history",
            "clinical information",
            "patient history",
            "pfi",
        ],
    ),
    ("notification", &["notification"]),
    (
        "recommendations",
        &["recommendation(s)", "recommendations", "recommendation"],
    ),
    ("addendum", &["addendum"]),
    ("date", &["date"]),
    ("comment", &["comment"]),
    ("wet read", &["wet read", "wetread"]),
];

/// A name with one of these words in it is a section of that word; the first one found counts.
const CONTAINED: [&str; 5] = [
    "impression",
    "findings",
    "history",
    "comparison",
    "addendum",
];

/// A name with one of these in it is a view, and what follows are findings.
const VIEWS: [&str; 18] = [
    "chest",
    "portable",
    "pa and lateral",
    "lateral and pa",
    "ap and lateral",
    "lateral and ap",
    "frontal and",
    "two views",
    "frontal view",
    "pa view",
    "ap view",
    "one view",
    "lateral view",
    "bone window",
    "frontal upright",
    "frontal semi-upright",
    "ribs",
    "pa and lat",
];

/// The name that a lower-case name of a section means.
pub(super) fn normalise(name: &str) -> String {
    let name = super::strip(name);
    if let Some((meant, _)) = EXACT.iter().find(|(_, spelt)| spelt.contains(&name)) {
        return (*meant).to_owned();
    }
    if let Some(word) = CONTAINED.into_iter().find(|word| name.contains(word)) {
        return word.to_owned();
    }
    if VIEWS.into_iter().any(|view| name.contains(view)) {
        return "findings".to_owned();
    }
    name.to_owned()
}
