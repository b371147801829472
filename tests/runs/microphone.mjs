// Records on lab serve's page with a made-up microphone: node microphone.mjs PAGE OUTPUT -> the WAV file that is sent.
import fs from "fs";
const [page, output] = process.argv.slice(2), elements = {}, sent = [], stopped = [];
const made = tag => ({
  tag, children: [], dataset: {}, classList: {add() {}, remove() {}}, append(...more) { this.children.push(...more); },
  replaceChildren() {}, querySelector() { return this.children.find(child => child.tag === "span"); }, querySelectorAll: () => [],
});
const document = {getElementById: id => elements[id] ??= made(id), createElement: made};
const answers = {"/health": {model: "x", inputs: {audio: {item: "recording", accept: "audio/*", about: "", choices: []}}, outputs: {}}};
const fetch = async (path, request) => {
  if (request) sent.push([path, request.body.get("file")]);
  return {ok: true, json: async () => answers[path] ?? {top: [], inputs: {}, outputs: {}}};
};
const navigator = {mediaDevices: {getUserMedia: async () => ({getTracks: () => [{stop: () => stopped.push(1)}]})}};
class MediaRecorder {
  constructor() { this.state = "inactive"; }
  start() { this.state = "recording"; }
  stop() { this.state = "inactive"; this.ondataavailable({data: new Blob(["x"])}); this.onstop(); }
}
class AudioContext {
  async decodeAudioData() { return {sampleRate: 48000, getChannelData: () => Float32Array.from([0, 0.5, -2, 1])}; }
  close() {}
}
const script = fs.readFileSync(page, "utf8").match(/<script>([\s\S]*)<\/script>/)[1];
const globals = {document, fetch, navigator, MediaRecorder, AudioContext};
new Function(...Object.keys(globals), script)(...Object.values(globals));
const turn = () => new Promise(done => setTimeout(done, 20));
await turn();
const button = elements.inputs.children.find(child => child.tag === "button");
button.onclick();
await turn();
const label = button.textContent;
button.onclick();
await turn();
fs.writeFileSync(output, Buffer.from(await sent[0][1].arrayBuffer()));
console.log(JSON.stringify({label, after: button.textContent, paths: sent.map(([path]) => path), stopped: stopped.length}));
navigator.mediaDevices = undefined;  // as on a page that is not from localhost and has no TLS
button.onclick();
await turn();
console.log(JSON.stringify(elements.error.textContent));
