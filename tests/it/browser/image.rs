//! The X-ray on the page: what is chosen is seen at once, and can be looked at closely.

use anyhow::Result;
use radialog_tests::fixtures::preprocessing_images;
use radialog_tests::services::{Browser, Screen};
use serde_json::json;

use super::{assert_calm, begin, open};
use crate::gateway::fixture::{GatewayFixture, UNLIMITED, xray_path};

/// Mean grey value of the canvas's middle, and the share of its pixels that is image.
const MIDDLE: &str = "(() => {
  const canvas = document.querySelector('.viewer-stage canvas');
  const [width, height] = [canvas.width, canvas.height];
  const copy = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, width, height);
  let [sum, count, shown] = [0, 0, 0];
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] > 0) shown += 1;
    const [x, y] = [(at / 4) % width, Math.floor(at / 4 / width)];
    if (Math.abs(x - width / 2) < 40 && Math.abs(y - height / 2) < 40) [sum, count] = [sum + data[at], count + 1];
  }
  return [sum / count, shown / (width * height)];
})()";

/// Tells when two frames have begun.
const TWO_FRAMES: &str = "(() => {
  window.painted = false;
  requestAnimationFrame(() => requestAnimationFrame(() => { window.painted = true; }));
})()";

async fn look(browser: &Browser) -> Result<(f64, f64)> {
    // It is painted with the next frame, so that it is there when the one after that begins.
    browser.value(TWO_FRAMES).await?;
    browser.until("window.painted").await?;
    Ok(serde_json::from_value(browser.value(MIDDLE).await?)?)
}

/// Chooses a window from the menu, in which it has this place and name.
async fn choose_preset(browser: &Browser, number: usize, name: &str) -> Result<()> {
    browser
        .click("[aria-label='Image tools'] [aria-haspopup='menu']")
        .await?;
    let item = format!("[aria-label='Presets'] [role=menuitem]:nth-child({number})");
    let label = browser.text(&format!("{item} span")).await?;
    assert_eq!(label, name);
    browser.click(&item).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_seen_before_it_is_sent() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    browser.requests().await?;
    browser
        .type_into("#file", xray_path().to_str().unwrap())
        .await?;
    browser
        .until("document.querySelector('#preview').naturalWidth > 0")
        .await?;
    assert!(browser.text("#preview-size").await?.contains("pixels"));
    let sent: Vec<String> = browser
        .requests()
        .await?
        .into_iter()
        .filter(|url| url.starts_with("http"))
        .collect();
    assert!(
        sent.iter().all(|url| url.ends_with("/v1/conversations")),
        "only the list is read: {sent:?}"
    );
    assert!(fixture.stored("images").is_empty());

    // Dropped and pasted images take the same way.
    for (kind, event) in [
        ("drop", "new DragEvent('drop', { dataTransfer: data })"),
        (
            "paste",
            "new ClipboardEvent('paste', { clipboardData: data })",
        ),
    ] {
        browser.click("#remove-image").await?;
        let script = format!(
            "(() => {{ const data = new DataTransfer(); const canvas = document.createElement('canvas'); canvas.width = 7; canvas.height = 5; \
             const bytes = atob(canvas.toDataURL('image/png').split(',')[1]); \
             data.items.add(new File([Uint8Array.from(bytes, (c) => c.charCodeAt(0))], '{kind}.png', {{ type: 'image/png' }})); \
             window.dispatchEvent({event}); }})()"
        );
        browser.value(&script).await?;
        browser
            .until("document.querySelector('#preview-size').textContent.startsWith('7 × 5 pixels')")
            .await?;
        assert_eq!(browser.text("#preview-name").await?, format!("{kind}.png"));
    }
    assert_calm(&browser, &fixture.gateway.url).await?;
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn window_level_zoom_pan_invert_and_reset_change_what_is_seen() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    browser
        .until("document.querySelector('.viewer-readout').textContent.includes('pixels')")
        .await?;
    let (grey, shown) = look(&browser).await?;
    assert!(grey > 1.0 && grey < 254.0, "{grey}");

    browser.click("[aria-label='Invert']").await?;
    let (inverted, _) = look(&browser).await?;
    assert!(
        (inverted - (255.0 - grey)).abs() < 1.0,
        "{grey} inverted is {inverted}"
    );
    browser.click("[aria-label='Invert']").await?;

    // Only what is brighter than 250 is white with this window.
    let slide = |label: &str, value: u32| {
        format!(
            "(() => {{ const slider = document.querySelector(\"input[aria-label='{label}']\"); slider.value = {value}; slider.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()"
        )
    };
    browser.value(&slide("Window", 10)).await?;
    browser.value(&slide("Level", 250)).await?;
    let (windowed, _) = look(&browser).await?;
    assert!(windowed < grey, "{windowed} is not darker than {grey}");

    for (number, name, looked) in [
        (2, "Lungs (dark)", json!([140, 80])),
        (3, "Mediastinum (bright)", json!([120, 185])),
        (4, "Bones (steep)", json!([90, 150])),
    ] {
        choose_preset(&browser, number, name).await?;
        let sliders =
            "[...document.querySelectorAll('.sliders input')].map((each) => Number(each.value))";
        assert_eq!(browser.value(sliders).await?, looked, "{name}");
        let (seen, _) = look(&browser).await?;
        match number {
            2 => assert!(seen > grey, "{seen} is not brighter than {grey}"),
            3 => assert!(seen < grey, "{seen} is not darker than {grey}"),
            _ => assert!((seen - grey).abs() > 1.0, "{seen} is as {grey}"),
        }
    }
    choose_preset(&browser, 1, "Whole range").await?;
    assert_eq!(look(&browser).await?, (grey, shown), "the whole range");

    browser.click("[aria-label='Reset the view']").await?;
    assert_eq!(look(&browser).await?, (grey, shown), "reset");
    browser.click("[aria-label='Zoom out']").await?;
    let (_, smaller) = look(&browser).await?;
    assert!(
        (smaller / shown - 1.0 / 1.5625).abs() < 0.01,
        "{smaller} of {shown}"
    );

    // The keyboard does the same.
    browser
        .value("document.querySelector('.viewer-stage canvas').focus()")
        .await?;
    browser.type_keys("i").await?;
    browser
        .until("document.querySelector('[aria-label=Invert]').ariaPressed === 'true'")
        .await?;
    browser.type_keys("r").await?;
    assert_eq!(look(&browser).await?, (grey, shown), "reset with R");
    // Far enough to the side that less of it is on the stage.
    for _ in 0..8 {
        browser.type_keys("\u{e012}").await?;
    }
    let (_, moved) = look(&browser).await?;
    assert!(moved < shown, "{moved} of {shown}");
    assert_calm(&browser, &fixture.gateway.url).await?;
    browser.close().await
}

/// Pixels of files that browsers show otherwise.
const AS_SEEN: &str = include_str!("as_seen.js");

#[tokio::test(flavor = "multi_thread")]
async fn profiles_gamma_and_alpha_change_nothing_of_what_is_shown() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    let seen = browser
        .value(&format!("(async () => {{ {AS_SEEN} }})()"))
        .await?;
    let right = json!({
        "gamma": [12, 42, 72, 200],
        "key": [12, 42, 72, 200],
        "palette": [12, 42, 72, 200, 100, 50],
        "greyAlpha": [42, 72],
        "colorAlpha": [12, 42, 72, 12, 42, 72, 12, 42, 72, 12, 42, 72, 13, 43, 73],
        "deepColorAlpha": [12, 42, 72],
        "interlaced": [42, 72],
        "profile": [40],
        "profileIsReal": true,
    });
    assert_eq!(seen, right);
    assert_calm(&browser, &fixture.gateway.url).await?;
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_files_none_is_taken_and_a_word_says_so() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    browser
        .type_into("#file", xray_path().to_str().unwrap())
        .await?;
    browser
        .until("document.querySelector('#preview').naturalWidth > 0")
        .await?;
    let chosen = browser.text("#preview-name").await?;
    for event in [
        "new DragEvent('drop', { dataTransfer: data })",
        "new ClipboardEvent('paste', { clipboardData: data })",
    ] {
        let script = format!(
            "(() => {{ const data = new DataTransfer(); for (const name of ['a.png', 'b.png']) \
             data.items.add(new File([new Uint8Array(9)], name, {{ type: 'image/png' }})); window.dispatchEvent({event}); }})()"
        );
        browser.value(&script).await?;
        let told = browser.text("#start-error").await?;
        assert!(
            told.contains("2 files: a conversation has one image"),
            "{told}"
        );
        assert_eq!(browser.text("#preview-name").await?, chosen, "it stays");
        browser
            .value("(document.querySelector('#start-error').hidden = true)")
            .await?;
    }
    browser.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_fetches_what_is_looked_at_and_keeps_it_small() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    begin(&browser).await?;
    browser.value("(location.hash = '#/')").await?;
    browser
        .until("document.querySelector('#choose')?.checkVisibility() || document.querySelector('#remove-image')?.checkVisibility()")
        .await?;
    // On a phone the list is away until it is opened.
    browser.look(Screen::PHONE).await?;
    browser.requests().await?;
    browser.reload().await?;
    browser
        .until("document.querySelectorAll('.item').length === 1")
        .await?;
    browser.value(TWO_FRAMES).await?;
    browser.until("window.painted").await?;
    let fetched = async || -> Result<usize> {
        let requests = browser.requests().await?;
        Ok(requests
            .iter()
            .filter(|url| url.ends_with("/image"))
            .count())
    };
    assert_eq!(fetched().await?, 0);
    browser.click("#open-list").await?;
    browser
        .until("document.querySelector('.thumbnail img')?.naturalWidth > 0")
        .await?;
    assert_eq!(fetched().await?, 1);
    let side = "(({ naturalWidth, naturalHeight }) => Math.min(naturalWidth, naturalHeight))(document.querySelector('.thumbnail img'))";
    assert_eq!(browser.value(side).await?, 96);
    let complaints = browser.complaints().await?;
    assert!(complaints.is_empty(), "{complaints:?}");
    browser.close().await
}

/// Width, height and largest grey value of the chosen image as it is shown.
const PREVIEW: &str = "(() => {
  const image = document.querySelector('#preview');
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const canvas = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  canvas.drawImage(image, 0, 0);
  const { data } = canvas.getImageData(0, 0, width, height);
  return [width, height, data.filter((_, at) => at % 4 === 0).reduce((a, b) => Math.max(a, b))];
})()";

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_shown_as_the_models_see_it() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let browser = open(&fixture, Screen::DESKTOP).await?;
    let folder = tempfile::tempdir()?;
    let jpeg = std::fs::read(preprocessing_images().join("gray_jpeg.jpg"))?;
    // EXIF that says: turned by 90 degrees.
    let mut exif =
        b"\xff\xe1\0\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
            .to_vec();
    exif.splice(..0, jpeg[..2].iter().copied());
    std::fs::write(
        folder.path().join("turned.jpg"),
        [&exif, &jpeg[2..]].concat(),
    )?;
    let shown = async |path: &std::path::Path| -> Result<(u32, u32, u32)> {
        browser.type_into("#file", path.to_str().unwrap()).await?;
        let name = path.file_name().unwrap().to_str().unwrap();
        let ready = format!(
            "document.querySelector('#preview-name').textContent === '{name}' && \
             document.querySelector('#preview-size').textContent.includes('pixels')"
        );
        browser.until(&ready).await?;
        let seen = serde_json::from_value(browser.value(PREVIEW).await?)?;
        browser.click("#remove-image").await?;
        Ok(seen)
    };
    let straight = shown(&preprocessing_images().join("gray_jpeg.jpg")).await?;
    assert_eq!(shown(&folder.path().join("turned.jpg")).await?, straight);
    // Its 16 bits reach 41,823 of 65,535.
    let deep = shown(&preprocessing_images().join("gray16.png")).await?;
    assert_eq!(deep, (340, 300, 255));
    assert_calm(&browser, &fixture.gateway.url).await?;
    browser.close().await
}
