//! What texts have that are pasted, typed in a hurry or written by a machine: apostrophes of every form, addresses, names of files,
//! money, marks without their letter, and signs in any order.

use radialog_tests::draw::Draw;

const APOSTROPHES: [&str; 8] = ["'", "’", "'", "’", "\u{92}", "&apos;", "`", "‘"];
const MARKS: [&str; 8] = [
    "\u{301}", "\u{308}", "\u{327}", "\u{64b}", "\u{93f}", "\u{610}", "\u{488}", "\u{e31}",
];
const SIGNS: &str = "$€£#@&%*+~=/\\|^_-–—.:;,!?'’\"“”‘()[]{}<>°µ²½₂×±≤→• ";

/// One of the words that stand between blanks.
fn word(draw: &mut Draw, words: &str) -> String {
    let words: Vec<&str> = words.split(' ').collect();
    words[draw.below(words.len())].to_owned()
}

fn clitic(draw: &mut Draw) -> String {
    let first =
        "it patient don can won isn they he O D l d the lungs X A B I we n y rock Hawai x 5 3.5";
    let second = "s S m d re ve ll t T em n till clock all Brien heure active q lungs ad Ad 55";
    let after = " , .  lungs and ) go active 5 é -x ’s ?";
    let apostrophe = APOSTROPHES[draw.below(APOSTROPHES.len())];
    word(draw, first) + apostrophe + &word(draw, second) + &word(draw, after)
}

fn address(draw: &mut Draw) -> String {
    let hosts = "a.b example.com www.example.com hospital.org x.y.z a example.co.uk www.a.b ab.net \
                 EXAMPLE.COM Scan.Org a-b.com a1.com a.b.c.org 10.1.1.1:80";
    let paths = " / /x /index.html /a/b?c=1&d=2 /x. /x, /(x) /x-y_z #a ?q=1";
    let users = "john j.smith John_Doe dr-x a1 é x+y";
    let host = word(draw, hosts);
    let text = match draw.below(4) {
        0 => word(draw, "http:// https:// HTTP:// ftp:// http:/ www.") + &host + &word(draw, paths),
        1 => host + &word(draw, paths),
        2 => word(draw, users) + "@" + &host,
        _ => word(draw, "< ( [ \" &lt; “ mailto:") + &word(draw, users) + "@" + &host,
    };
    text + &word(draw, " . , ; : ! ? ) ] > &gt; ” ...")
}

fn file(draw: &mut Draw) -> String {
    let mut name = String::new();
    for _ in 0..1 + draw.below(3) {
        name += &(word(draw, "1 2 10 a v1 T1 chest image 3b é IMG_1 a-b 1.2.840") + ".");
    }
    name + &word(draw, "x py jpg png dcm txt h c C y com doc nii tar.gz")
        + &word(draw, " . , ; ) -x 5 _")
}

fn money(draw: &mut Draw) -> String {
    let currency = word(draw, "$ £ € ¥ ¢ US$ A$ a$ # ## ¤ ￥ $$ Rs.");
    let number = word(draw, "5 5.00 1,000 .5 -5 5-6 5m x 1.2.3 5% 1/2 1\\/2");
    match draw.below(4) {
        0 => currency + &number,
        1 => number + &currency,
        2 => format!("-{currency}{number}."),
        _ => format!("({currency} {number})"),
    }
}

fn mark(draw: &mut Draw) -> String {
    let mark = MARKS[draw.below(MARKS.len())];
    word(draw, " a 5 - é ’ . ( ½ 5. a-") + mark + &word(draw, " b 5 -b . ’s ’ é .,")
}

fn signs(draw: &mut Draw) -> String {
    let signs: Vec<char> = SIGNS.chars().chain("ab5XéI".repeat(8).chars()).collect();
    (0..2 + draw.below(5))
        .map(|_| signs[draw.below(signs.len())])
        .collect()
}

/// Brackets as a tokenizer has written them.
fn bracket(draw: &mut Draw) -> String {
    let bracket = word(
        draw,
        "-LRB- -RRB- -lrb- -rrb- -LSB- -rsb- -lcb- -RCB- -Lrb-",
    );
    word(draw, " a 5 ( é - --") + &bracket + &word(draw, " b 5 left-rrb- ) - . , -lrb-")
}

/// A text of one line with a fragment of one of the kinds.
pub(super) fn text(draw: &mut Draw) -> String {
    let kinds: [fn(&mut Draw) -> String; 7] = [clitic, address, file, money, mark, signs, bracket];
    let fragment = kinds[draw.below(kinds.len())](draw);
    match draw.below(3) {
        // No word that ends a sentence before it, as the next line's first would.
        0 => format!("Both {fragment} are clear."),
        _ if !fragment.trim().is_empty() => fragment,
        _ => "Clear.".to_owned(),
    }
}
