//! Listings: keys in order, page by page, whatever else is in the store.

use super::*;

pub(super) async fn a_listing_is_in_key_order_and_goes_on_where_it_stopped(
    store: ObjectStoreFixture,
) {
    // Byte order of whole keys: `-` and `.` come before `/`, capitals before small letters.
    let expected = [
        "a-1", "a.json", "a/B", "a/a", "a/b/1", "a/b/2", "a/c", "ab", "z/9",
    ];
    let mut shuffled = expected;
    shuffled.reverse();
    store.fill(&shuffled).await;
    assert_eq!(store.list("", None, 100).await, expected);
    let mut pages = Vec::new();
    loop {
        let page = store.list("", pages.last().map(String::as_str), 2).await;
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 2);
        pages.extend(page);
    }
    assert_eq!(pages, expected);
    assert_eq!(
        store.list("", Some("a/b"), 2).await,
        ["a/b/1", "a/b/2"],
        "`after` need not exist"
    );
}

pub(super) async fn a_listing_sees_only_its_prefix(store: ObjectStoreFixture) {
    store.fill(&["a/1", "a/2", "ab/3", "b/4"]).await;
    assert_eq!(store.list("a/", None, 100).await, ["a/1", "a/2"]);
    assert_eq!(store.list("a", None, 100).await, ["a/1", "a/2", "ab/3"]);
    assert_eq!(store.list("nothing/", None, 100).await, [""; 0]);
}

pub(super) async fn three_thousand_objects_are_listed_once_each(store: ObjectStoreFixture) {
    let expected: Vec<_> = (0..3000).map(|n| format!("many/{n:04}.png")).collect();
    store.write(&expected).await;
    for limit in [1000, 1001, 5000] {
        let pages = store.pages("many/", limit).await;
        let listed: Vec<_> = pages.iter().flat_map(keys).collect();
        assert!(listed == expected, "{} in pages of {limit}", listed.len());
    }
}

pub(super) async fn a_listing_ends_where_whole_pages_are_folder_markers(store: ObjectStoreFixture) {
    let markers = (0..2500).map(|n| format!("a/folder{n:04}/"));
    match (&store.folder, &store.bucket) {
        (Some(_), Some(bucket)) => {
            let server = Services::shared().await.unwrap().s3();
            server.list_also(bucket, markers.chain(["a/".to_owned()]));
        }
        (Some(folder), None) => {
            markers.for_each(|name| fs::create_dir_all(folder.join(name)).unwrap());
        }
        // We cannot make any in another's store.
        (None, _) => {}
    }
    let expected = ["a/aaa", "a/folder1200/x", "a/zzz"];
    store.write(expected).await;
    for limit in [7, 1000] {
        let pages = store.pages("a/", limit).await;
        assert_eq!(pages.iter().flat_map(keys).collect::<Vec<_>>(), expected);
        assert!(pages.iter().all(|page| page.unusable.is_empty()));
    }
}

pub(super) async fn names_that_are_no_keys_are_listed_as_such_and_passed(
    store: ObjectStoreFixture,
) {
    let good = ["a b+c%20&.png", "x/Röntgen 第一.png", "z.png"];
    store.write(good).await;
    let mut odd = vec!["back\\slash.png", "line\nend.png", "tab\t.png"];
    store.write(&odd).await;
    match (&store.folder, &store.bucket) {
        // What is no key cannot be put through ours.
        (None, _) => odd.clear(),
        (Some(_), Some(bucket)) => {
            let impossible = [
                "../up.png",
                "/absolute.png",
                "a//b.png",
                "a/./b",
                "\u{1}.png",
                "x/\r",
            ];
            odd.extend(impossible);
            let server = Services::shared().await.unwrap().s3();
            server.list_also(bucket, impossible.map(str::to_owned));
        }
        (Some(_), None) => {
            store.write([OsStr::from_bytes(b"caf\xe9.png")]).await;
            odd.push("caf\\xe9.png");
        }
    }
    odd.sort_unstable();
    for limit in [1, 3, 1000] {
        let pages = store.pages("", limit).await;
        assert_eq!(pages.iter().flat_map(keys).collect::<Vec<_>>(), good);
        let unusable: Vec<_> = pages.iter().flat_map(|page| &page.unusable).collect();
        assert_eq!(unusable, odd.iter().collect::<Vec<_>>());
    }
}
