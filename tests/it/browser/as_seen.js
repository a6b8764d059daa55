// Makes image files that browsers show otherwise than the models read them, and gives the grey (or red, green, blue) values
// of the first pixels of each as the page shows it. A function's body: `image.rs` runs it in the page.
const { asSeen } = await import("/assets/image_file.js");

const checksums = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});
const word = (value) => [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255];
const letters = (text) => [...text].map((letter) => letter.charCodeAt(0));
const chunk = (kind, data) => {
  const named = [...letters(kind), ...data];
  const sum = ~named.reduce((crc, byte) => checksums[(crc ^ byte) & 255] ^ (crc >>> 8), -1) >>> 0;
  return [...word(data.length), ...named, ...word(sum)];
};
const png = async (width, height, depth, color, lines, chunks = [], interlaced = 0) => {
  const packed = new Blob([Uint8Array.from(lines)]).stream().pipeThrough(new CompressionStream("deflate"));
  const data = [...new Uint8Array(await new Response(packed).arrayBuffer())];
  return new Blob([Uint8Array.from([
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a,
    ...chunk("IHDR", [...word(width), ...word(height), depth, color, 0, 0, interlaced]),
    ...chunks.flatMap(([kind, bytes]) => chunk(kind, bytes)), ...chunk("IDAT", data), ...chunk("IEND", []),
  ])], { type: "image/png" });
};
// A profile of colours whose values are linear in light, where sRGB's are not.
const linear = () => {
  const s15 = (value) => word(Math.round(value * 65536));
  const tags = [
    ["wtpt", [...letters("XYZ "), 0, 0, 0, 0, ...s15(0.9642), ...s15(1), ...s15(0.8249)]],
    ["rXYZ", [...letters("XYZ "), 0, 0, 0, 0, ...s15(0.4361), ...s15(0.2225), ...s15(0.0139)]],
    ["gXYZ", [...letters("XYZ "), 0, 0, 0, 0, ...s15(0.3851), ...s15(0.7169), ...s15(0.0971)]],
    ["bXYZ", [...letters("XYZ "), 0, 0, 0, 0, ...s15(0.1431), ...s15(0.0606), ...s15(0.7141)]],
    ...["rTRC", "gTRC", "bTRC"].map((name) => [name, [...letters("curv"), 0, 0, 0, 0, 0, 0, 0, 0]]),
  ];
  let at = 128 + 4 + 12 * tags.length;
  const table = tags.flatMap(([name, data]) => [...letters(name), ...word((at += data.length) - data.length), ...word(data.length)]);
  const body = [...word(tags.length), ...table, ...tags.flatMap(([, data]) => data)];
  const head = new Array(128).fill(0);
  const put = (offset, bytes) => bytes.forEach((byte, index) => (head[offset + index] = byte));
  put(0, word(128 + body.length));
  put(8, word(0x02400000));
  put(12, letters("mntrRGB XYZ "));
  put(36, letters("acsp"));
  put(68, [...s15(0.9642), ...s15(1), ...s15(0.8249)]);
  return [...head, ...body];
};
const jpeg = async (segments) => {
  const canvas = new OffscreenCanvas(16, 16);
  const context = canvas.getContext("2d");
  context.fillStyle = "rgb(40 40 40)";
  context.fillRect(0, 0, 16, 16);
  const bytes = [...new Uint8Array(await (await canvas.convertToBlob({ type: "image/jpeg", quality: 1 })).arrayBuffer())];
  const inserted = segments.flatMap(([kind, data]) => [0xff, 0xff, kind, ...word(data.length + 2).slice(2), ...data]);
  return new Blob([Uint8Array.from([...bytes.slice(0, 2), ...inserted, ...bytes.slice(2)])], { type: "image/jpeg" });
};
const pixels = async (file, count, channels) => {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  await image.decode();
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  return Array.from({ length: count }, (_, at) => [...data.slice(4 * at, 4 * at + channels)]).flat();
};

const grey = [0, 12, 42, 72, 200];
const profile = [0x49, 0x43, 0x43, 0x5f, 0x50, 0x52, 0x4f, 0x46, 0x49, 0x4c, 0x45, 0, 1, 1, ...linear()];
const files = {
  gamma: [await png(4, 1, 8, 0, grey, [["gAMA", word(100000)]]), 4, 1],
  // The second pixel's grey is the key.
  key: [await png(4, 1, 8, 0, grey, [["tRNS", [0, 42]]]), 4, 1],
  palette: [await png(2, 1, 8, 3, [0, 0, 1], [["PLTE", [12, 42, 72, 200, 100, 50]], ["tRNS", [0, 0]]]), 2, 3],
  greyAlpha: [await png(2, 1, 8, 4, [0, 42, 0, 72, 9]), 2, 1],
  // Each line after another filter: none, left, above, the mean, the predictor of Paeth.
  colorAlpha: [await png(1, 5, 8, 6, [0, 12, 42, 72, 0, 1, 12, 42, 72, 0, 2, 0, 0, 0, 0, 3, 6, 21, 36, 0, 4, 1, 1, 1, 0]), 5, 3],
  deepColorAlpha: [await png(1, 1, 16, 6, [0, 12, 255, 42, 255, 72, 255, 0, 0]), 1, 3],
  // The first pass has one pixel, the sixth its neighbour.
  interlaced: [await png(2, 1, 8, 4, [0, 42, 0, 0, 72, 0], [], 1), 2, 1],
  profile: [await jpeg([[0xe2, profile]]), 1, 1],
};
const untouched = await pixels(files.profile[0], 1, 1);
const seen = {};
for (const [name, [file, count, channels]] of Object.entries(files)) seen[name] = await pixels(await asSeen(file), count, channels);
return { ...seen, profileIsReal: untouched[0] > 80 };
