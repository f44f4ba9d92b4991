// What AsyncAPI's parser says of documents: node validate.cjs PARSER DOCUMENT... prints a JSON array a document.
"use strict";

const { readFileSync } = require("node:fs");

// The build is made for browsers: it looks for their names of the global object.
globalThis.self = globalThis.window = globalThis;

const [build, ...documents] = process.argv.slice(2);
const Parser = require(build);

async function main() {
  const found = [];
  for (const path of documents) {
    found.push(await new Parser().validate(readFileSync(path, "utf8")));
  }
  process.stdout.write(JSON.stringify(found));
}

main().catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exitCode = 1;
});
