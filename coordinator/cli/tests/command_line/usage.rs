//! What the command line cannot mean, in one table: each line of it ends with 64 and a sentence, before anything is written.

use std::fs;
use std::process::Command;

use super::patience::InTime;
use super::people::XRAYS;
use super::text;

/// Arguments, where `XRAYS` is a folder of images, and the words that must be said.
const TABLE: &[(&str, &str)] = &[
    // Archives and images.
    ("batch nowhere --out o", "there is no archive at 'nowhere'"),
    ("batch text.txt --out o", "is no archive: it is no image"),
    ("batch empty --out o", "there is no image in 'empty'"),
    ("batch bad.csv --out o", "no column 'study_id'"),
    ("report nowhere.png", "there is no file 'nowhere.png'"),
    ("report text.txt", "'text.txt': it is no image"),
    ("report empty", "use radialog batch"),
    // Before anything is opened that would compute it.
    ("report two.csv --bundle nowhere", "it has several studies"),
    ("chat nowhere.png", "there is no file 'nowhere.png'"),
    ("chat text.txt", "not an image"),
    ("plan nowhere", "there is no archive at"),
    // Places for results.
    (
        "batch XRAYS --out text.txt",
        "cannot write results to 'text.txt'",
    ),
    ("batch XRAYS --out s3://b/x", "--s3 URL"),
    (
        "batch XRAYS --out s3://b/x --html",
        "--html writes a page into a folder",
    ),
    (
        "batch XRAYS --out o --work w",
        "--work is for runs into s3://",
    ),
    // Values.
    ("batch XRAYS --out o --max-image-size 0", "0 is not in 1.."),
    ("batch XRAYS --out o --limit 0", "0 is not in 1.."),
    ("batch XRAYS --out o --window 0", "0 is not in 1.."),
    (
        "batch XRAYS --out o --seed 4",
        "--seed is for reports that are sampled",
    ),
    (
        "report XRAYS/2cd63b76.jpg --seed 4",
        "--seed is for reports that are sampled",
    ),
    ("batch XRAYS --out o --top-p 0.5", "--temperature"),
    (
        "batch XRAYS --out o --temperature 0",
        "--temperature 0 is not over 0",
    ),
    (
        "batch XRAYS --out o --consistency-temperature 0.5",
        "--consistency",
    ),
    (
        "batch XRAYS --out o --consistency 2 --stages findings",
        "add language",
    ),
    ("batch XRAYS --out o --stages nothing", "nothing"),
    ("batch XRAYS --out o --device nix", "'nix' is not a device"),
    (
        "batch XRAYS --out o --model nobody",
        "none of the bundle's models",
    ),
    (
        "batch XRAYS --out o --precision language=f32,language=bf16",
        "language=f32 and language=bf16 are both given",
    ),
    (
        "batch XRAYS --out o --precision f32,bf16",
        "f32 and bf16 are both given",
    ),
    ("batch XRAYS --out o --precision q9", "'q9' is no precision"),
    // Files that stand in for stages.
    (
        "batch XRAYS --out o --embeddings nowhere.pkl",
        "nowhere.pkl",
    ),
    (
        "batch XRAYS --out o --embeddings text.txt",
        "is no file of embeddings",
    ),
    (
        "batch XRAYS --out o --predictions nowhere.json",
        "nowhere.json",
    ),
    (
        "batch XRAYS --out o --predictions text.txt",
        "is no file of predictions",
    ),
    // Settings.
    ("batch XRAYS --out o --config nowhere.toml", "nowhere.toml"),
    ("batch XRAYS --out o --config text.txt", "text.txt"),
    ("serve --listen nonsense", "write an address and a port"),
    ("serve --also x", "is not GROUP=BUNDLE"),
    ("worker language", "--amqp URL"),
    ("dlq list", "--amqp URL"),
    ("export corrections --out c.json", "--objects DIR"),
    ("purge --conversation x", "--objects DIR"),
    // Runs that are not there.
    ("status nowhere", "'nowhere' is not a folder"),
    ("status empty", "'empty' holds no run"),
    ("verify a --run nowhere", "there is no 'nowhere'"),
    ("verify a --run empty", "empty/results.jsonl"),
    ("verify a --run text.txt", "not a study record"),
    (
        "plan XRAYS --measured nowhere",
        "there are no results of a run",
    ),
    ("plan XRAYS --measured text.txt", "no result"),
    ("evaluate report nowhere", "there is no 'nowhere'"),
    (
        "evaluate report table.csv --references nowhere.csv",
        "there is no 'nowhere.csv'",
    ),
    (
        "evaluate report table.csv --references bad.csv",
        "no column of ids",
    ),
    (
        "evaluate report table.csv --references table.csv --split test",
        "leave out --split test",
    ),
    (
        "evaluate report table.csv --references table.csv --stratified",
        "needs labels",
    ),
    (
        "evaluate report table.csv --references table.csv --meteor nowhere",
        "--meteor",
    ),
    (
        "evaluate report table.csv --references table.csv --meteor text.txt",
        "METEOR data",
    ),
    (
        "evaluate text --hypotheses nowhere --references table.csv",
        "there is no 'nowhere'",
    ),
    (
        "evaluate correction nowhere --out e",
        "there is no archive at",
    ),
    (
        "evaluate correction XRAYS --out e --labels bad.csv",
        "no column",
    ),
    (
        "rexrank --input_json_file text.txt --save_json_file s.json --img_root_dir empty",
        "no JSON of ReXrank",
    ),
    (
        "rexrank --input_json_file empty.json --save_json_file s.json --img_root_dir empty",
        "has no study",
    ),
    // Bundles.
    ("batch XRAYS --out o --bundle nowhere", "is not a bundle"),
    ("bundle show empty", "is not a bundle"),
    ("bundle verify nowhere", "is not a bundle"),
    ("bundle random text.txt", "it is there already"),
    ("bundle random XRAYS", "it is there already"),
    ("bundle random b --adapters rg,rg", "'rg' twice"),
    ("bundle quantise --to q8_0 nowhere q", "is not a bundle"),
    (
        "bundle quantise --to q8_0 demo text.txt",
        "it is there already",
    ),
    ("bundle quantise --to q8_0 demo demo", "or write ./demo"),
    (
        "bundle calibrate demo demo --images bad.csv empty",
        "or write ./demo",
    ),
    ("bundle random demo", "or write ./demo"),
    (
        "bundle assemble demo --name x --findings demo",
        "or write ./demo",
    ),
    ("bundle import demo --from empty", "or write ./demo"),
    (
        "bundle fetch radialog-v1 f --bundle demo",
        "or write ./demo",
    ),
    ("bundle assemble a --name x", "name at least one of"),
    (
        "bundle assemble empty --name x --findings demo",
        "it is there already",
    ),
    (
        "bundle check demo --images empty",
        "name what to compare with",
    ),
    (
        "bundle check demo --images empty --embeddings nowhere",
        "nowhere",
    ),
    (
        "bundle check demo --images empty --predictions text.txt",
        "is no file of predictions",
    ),
    ("bundle import i", "name a folder with --from"),
    ("bundle import i --from nowhere", "there is no such folder"),
    ("bundle import i --from empty", "no part makes a component"),
    (
        "bundle import i --base nowhere.gguf",
        "there is no such file",
    ),
    ("bundle import i --base text.txt", "no GGUF file"),
    ("bundle upload demo nowhere", "is no place in a store"),
    (
        "bundle calibrate demo c --images bad.csv empty",
        "no column 'image'",
    ),
    // Trainings and their data.
    ("train findings nowhere.toml --out r", "nowhere.toml"),
    (
        "train gate gate.toml --out r --device cpu",
        "unexpected argument",
    ),
    ("evaluate gate nowhere.toml", "nowhere.toml"),
    ("evaluate gate gate.toml", "no column 'image'"),
    (
        "evaluate gate gate.toml --weights nowhere",
        "there is no 'nowhere'",
    ),
    (
        "evaluate gate gate.toml --weights text.txt",
        "has no weights of the input gate",
    ),
    (
        "train findings recipe.toml --out r --device nix",
        "'nix' is not a device",
    ),
    ("finetune nowhere.csv --out f", "there is no 'nowhere.csv'"),
    ("finetune bad.csv --out f", "bad.csv"),
    (
        "finetune table.csv --out f --device nix",
        "'nix' is not a device",
    ),
    (
        "finetune table.csv --images nowhere --out f",
        "there is no 'nowhere'",
    ),
    ("prepare labels --reports bad.csv --out l.csv", "no column"),
    (
        "prepare labels --reports missing.csv --out l.csv",
        "there is no table",
    ),
    (
        "prepare embeddings --images missing.csv --out e.safetensors",
        "there is no table",
    ),
    (
        "prepare labels --reports empty.csv --out l.csv",
        "empty.csv' cannot be read as a table: it is empty",
    ),
    ("batch empty.csv --out o", "is no archive: it is empty"),
    ("prepare nih nowhere --out n.csv", "nowhere"),
    (
        "prepare embeddings --images nowhere --out e.safetensors",
        "nowhere",
    ),
    (
        "prepare embeddings --images bad.csv --out e.safetensors",
        "no column",
    ),
    (
        "prepare answers --task EL --reports nowhere --tasks t",
        "--sectioned",
    ),
    (
        "prepare tokenizer --kind bpe --texts nowhere.csv:a --vocab 300 --out t.json",
        "nowhere.csv",
    ),
    (
        "prepare tokenizer --kind bpe --texts table.csv --vocab 300 --out t.json",
        "FILE:COLUMN",
    ),
];

#[test]
fn what_cannot_be_meant_ends_with_64_and_a_sentence_and_leaves_no_output() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| fs::write(dir.path().join(name), content).unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    write("text.txt", "text\n");
    write("bad.csv", "a,b\n1,2\n");
    write("table.csv", "id,report\na,Clear.\n");
    write("empty.json", "{}");
    write("empty.csv", "");
    write("two.csv", "study_id,image\na,a.png\nb,b.png\n");
    let table = "[[tables]]\ntable = \"bad.csv\"\nimages = \"empty\"\n";
    let recipe = format!("epochs = 1\nbatch_size = 8\nrate = 1e-3\n{table}");
    write("gate.toml", &recipe);
    let findings = include_str!("../../../../workers/training/recipes/demo/findings.toml");
    write("recipe.toml", findings);
    let names = || {
        let entries = fs::read_dir(dir.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let mut wrong = Vec::new();
    for (line, words) in TABLE {
        let arguments = line.split(' ').map(|part| part.replace("XRAYS", XRAYS));
        let mut command = Command::new(env!("CARGO_BIN_EXE_radialog"));
        command.args(arguments).current_dir(dir.path());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RADIALOG_")) {
            if name != "RADIALOG_CACHE" {
                command.env_remove(name);
            }
        }
        let output = command
            .stdin(std::process::Stdio::null())
            .output_in_time()
            .unwrap();
        let said = text(&output.stderr);
        if output.status.code() != Some(64) || !said.contains(words) {
            wrong.push(format!("{line}: {:?}: {said}", output.status.code()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let left: Vec<_> = names()
        .into_iter()
        .filter(|name| !before.contains(name))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
