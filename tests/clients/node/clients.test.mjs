// OpenAI's client for Node and the Vercel AI SDK. `SERVER` is the address of the server with scripted models.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const server = process.env.SERVER;
const baseURL = `${server}/v1`;
const Ticket = z.object({ category: z.enum(["billing", "network"]), priority: z.number().int() });
const TICKET = { category: "billing", priority: 2 };
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const hello = [{ role: "user", content: "Hello" }];
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Look outside.",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};

const script = (...answers) =>
  fetch(`${server}/control/script`, { method: "POST", body: JSON.stringify({ answers, model: "hermes" }) });
const prompts = async () =>
  (await (await fetch(`${server}/control/requests`)).json()).map((request) => request.prompt);
const call = (name, args) => `<tool_call>\n${JSON.stringify({ name, arguments: args })}\n</tool_call>`;

beforeEach(() => script());

test("openai: chat, and a stream", async () => {
  await script("Good day.", "Good day.");
  const answer = await client.chat.completions.create({ model: "hermes", messages: hello });
  assert.equal(answer.choices[0].message.content, "Good day.");
  const stream = await client.chat.completions.create({ model: "hermes", messages: hello, stream: true });
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
  assert.equal(text, "Good day.");
});

test("openai: runTools sends the results back", async () => {
  await script(call("get_weather", { city: "Zürich" }), "It is warm.");
  const runner = client.chat.completions.runTools({
    model: "hermes",
    messages: hello,
    tools: [
      {
        type: "function",
        function: {
          ...weather.function,
          parse: JSON.parse,
          function: ({ city }) => `30 degrees in ${city}`,
        },
      },
    ],
  });
  assert.equal(await runner.finalContent(), "It is warm.");
  assert.match((await prompts())[1], /30 degrees in Zürich/);
});

test("openai: a structured answer, and a response", async () => {
  await script(JSON.stringify(TICKET), "Good day.");
  const parsed = await client.chat.completions.parse({
    model: "hermes",
    messages: hello,
    response_format: zodResponseFormat(Ticket, "ticket"),
  });
  assert.deepEqual(parsed.choices[0].message.parsed, TICKET);
  const response = await client.responses.create({ model: "hermes", input: "Hello" });
  assert.equal(response.output_text, "Good day.");
});

test("openai: an error has the client's type", async () => {
  await assert.rejects(client.chat.completions.create({ model: "other", messages: hello }), OpenAI.NotFoundError);
});

const models = {
  compatible: createOpenAICompatible({ name: "fjarr", baseURL, supportsStructuredOutputs: true }).chatModel("hermes"),
  chat: createOpenAI({ baseURL, apiKey: "none" }).chat("hermes"),
  responses: createOpenAI({ baseURL, apiKey: "none" })("hermes"), // its default
};
for (const [name, model] of Object.entries(models)) {
  test(`ai sdk, ${name}: text`, async () => {
    await script("Good day.");
    const { text, usage } = await generateText({ model, system: "Be kind.", prompt: "Hello", maxRetries: 0 });
    assert.equal(text, "Good day.");
    assert.equal(usage.outputTokens, "Good day.".length + 1);
    assert.match((await prompts())[0], /Be kind\./);
  });

  test(`ai sdk, ${name}: a stream with a tool`, async () => {
    await script(call("get_weather", { city: "Zürich" }), "It is warm.");
    const result = streamText({
      model,
      prompt: "How is it?",
      maxRetries: 0,
      stopWhen: stepCountIs(3),
      tools: {
        get_weather: tool({
          description: "Look outside.",
          inputSchema: z.object({ city: z.string() }),
          execute: async ({ city }) => `30 degrees in ${city}`,
        }),
      },
      onError: ({ error }) => assert.fail(error),
    });
    let text = "";
    for await (const part of result.textStream) text += part;
    assert.equal(text, "It is warm.");
    assert.match((await prompts())[1], /30 degrees in Zürich/);
  });

  test(`ai sdk, ${name}: a structured answer`, async () => {
    await script(JSON.stringify(TICKET));
    const result = await generateText({
      model,
      prompt: "My bill is wrong",
      maxRetries: 0,
      output: Output.object({ schema: Ticket }),
    });
    assert.deepEqual(result.output, TICKET);
  });
}
