// Runs the script of lab serve's page against a small document: node page.mjs PAGE CASE -> JSON of what it shows.
import fs from "fs";
class Element {
  constructor(tag) { Object.assign(this, {tag, children: [], dataset: {}, classList: {add() {}, remove() {}}, text: "", hidden: false}); }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.children = children; }
  set textContent(text) { this.text = text; }
  set innerHTML(html) { this.text = `html:${html}`; }
  querySelector(tag) { return this.children.find(child => child.tag === tag); }
  querySelectorAll() { return this.children.filter(child => child.dataset.output); }
  get words() { return [this.src ?? this.text, ...this.children.flatMap(child => child.words)].filter(Boolean); }
}
const [page, file] = process.argv.slice(2);
const {health, predict, explain, typed, files} = JSON.parse(fs.readFileSync(file));
const elements = {}, asked = [];
const document = {getElementById: id => elements[id] ??= new Element(id), createElement: tag => new Element(tag)};
const answers = {"/health": health, "/predict": predict, "/explain": explain};
const fetch = async (path, request) => {
  if (request) asked.push([path, [...request.body.keys()]]);
  return {ok: true, json: async () => answers[path]};
};
const script = fs.readFileSync(page, "utf8").match(/<script>([\s\S]*)<\/script>/)[1];
const {take, answer, controls} = new Function("document", "fetch", `${script}; return {take, answer, controls};`)(document, fetch);
const turn = () => new Promise(done => setTimeout(done, 20));
await turn();
for (const [name, text] of Object.entries(typed)) controls[name].value = text;
for (const name of files) take(name, new File(["x"], "x.png"));
if (elements.ask.hidden === false) await answer();
await turn();
const kinds = Object.fromEntries(Object.entries(controls).map(([name, {tag}]) => [name, tag]));
const error = elements.error?.hidden === false ? elements.error.text : "";
const words = Object.fromEntries(["answers", "shown"].map(id => [id, elements[id]?.words ?? []]));
console.log(JSON.stringify({kinds, asked, error, facts: elements.facts.text, ...words}));
