// The npm package `openai` against the server at argv[2]: what each scenario saw, as one JSON object.
// OPENAI_NPM is the directory that it was installed into.
const { createRequire } = require("node:module");
const path = require("node:path");

const from = createRequire(path.resolve(process.env.OPENAI_NPM, "x.js"));
const OpenAI = from("openai");

const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "none", maxRetries: 0 });
const model = "any";
const messages = [{ role: "user", content: "What is Tramontane?" }];
const asked = { model, messages, temperature: 0 };
const SCHEMA = {
  type: "object",
  properties: { speed: { type: "integer", minimum: 0, maximum: 9 }, cold: { type: "boolean" } },
  required: ["speed", "cold"],
  additionalProperties: false,
};
const TOOL = { type: "function", function: { name: "add", strict: true, parameters: SCHEMA } };

async function refused(promise) {
  try {
    await promise;
  } catch (error) {
    const { status, param, type } = error;
    return { name: error.constructor.name, status, param, type, hasId: Boolean(error.requestID) };
  }
  throw new Error("it was not refused");
}

const scenarios = {
  async whole() {
    const answer = await client.chat.completions.create(asked);
    return { text: answer.choices[0].message.content, usage: answer.usage, id: answer._request_id };
  },
  async stream() {
    const options = { include_usage: true };
    const stream = await client.chat.completions.create({
      ...asked,
      stream: true,
      stream_options: options,
    });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    return {
      text: chunks.map((c) => c.choices[0]?.delta.content ?? "").join(""),
      num: chunks.length,
      usage: chunks.at(-1).usage,
      ids: [...new Set(chunks.map((c) => c.id))].length,
    };
  },
  // Puts a stream's chunks together by itself, and fails on any that do not fit.
  async assembled() {
    const runner = client.chat.completions.stream({ ...asked, n: 2, logprobs: true });
    const answer = await runner.finalChatCompletion();
    return answer.choices.map((c) => ({
      text: c.message.content,
      finish: c.finish_reason,
      tokens: c.logprobs.content.map((t) => t.token).join(""),
    }));
  },
  async schema() {
    const format = { type: "json_schema", json_schema: { name: "w", strict: true, schema: SCHEMA } };
    const answer = await client.chat.completions.parse({ ...asked, response_format: format });
    return JSON.parse(answer.choices[0].message.content);
  },
  async tool() {
    const tool_choice = { type: "function", function: { name: "add" } };
    const runner = client.chat.completions.stream({ ...asked, tools: [TOOL], tool_choice });
    const answer = await runner.finalChatCompletion();
    const [call] = answer.choices[0].message.tool_calls;
    return { name: call.function.name, args: JSON.parse(call.function.arguments), id: call.id };
  },
  async left() {
    const stream = await client.chat.completions.create({
      ...asked,
      stream: true,
      max_tokens: 900,
      ignore_eos: true,
    });
    for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
    return { isAborted: stream.controller.signal.aborted };
  },
  async completion() {
    const answer = await client.completions.create({ model, prompt: "Once", max_tokens: 9, temperature: 0 });
    return answer.choices[0].text;
  },
  async response() {
    const input = messages[0].content;
    const stream = client.responses.stream({ model, input, temperature: 0 });
    const types = [];
    for await (const event of stream) types.push(event.type);
    const final = await stream.finalResponse();
    return { text: final.output_text, first: types[0], last: types.at(-1), status: final.status };
  },
  async background() {
    const input = messages[0].content;
    const begun = await client.responses.create({ model, input, background: true, temperature: 0 });
    const stream = await client.responses.retrieve(begun.id, { stream: true, starting_after: 1 });
    const numbers = [];
    for await (const event of stream) numbers.push(event.sequence_number);
    const found = await client.responses.retrieve(begun.id);
    return { numbers, status: found.status, text: found.output_text };
  },
  async models() {
    const found = [];
    for await (const one of client.models.list()) found.push(one.id);
    return found;
  },
  async batch() {
    const body = { model, messages, max_tokens: 4 };
    const line = { custom_id: "a", method: "POST", url: "/v1/chat/completions", body };
    const content = Buffer.from(JSON.stringify(line) + "\n");
    const file = await client.files.create({
      file: await OpenAI.toFile(content, "in.jsonl"),
      purpose: "batch",
    });
    const wanted = { endpoint: line.url, input_file_id: file.id, completion_window: "24h" };
    let batch = await client.batches.create(wanted);
    while (!["completed", "failed"].includes(batch.status)) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      batch = await client.batches.retrieve(batch.id);
    }
    const output = await (await client.files.content(batch.output_file_id)).text();
    return { status: batch.status, custom_id: JSON.parse(output).custom_id };
  },
  async bad() {
    return refused(client.chat.completions.create({ ...asked, temperature: 9 }));
  },
  async missing() {
    return refused(client.responses.retrieve("resp_none"));
  },
};

async function main() {
  const said = {};
  for (const [name, scenario] of Object.entries(scenarios)) {
    try {
      said[name] = await scenario();
    } catch (error) {
      said[name] = { failed: String(error?.stack ?? error) };
    }
  }
  console.log(JSON.stringify(said));
}

main();
