/** The formula of native-bench/README.md, with figures a person can follow. */
import { expect, it } from 'vitest';
import { predict } from '../../native-bench/predict.ts';

/** Half a second of CPU for the two sides of TLS, two in all; content goes out at half its size. */
const known = {
  sumSecondsPerGB: 2,
  tlsReceive: 0.4,
  tlsSend: 0.1,
  input: { sampledBytes: 1000, plainFrameBytes: 1000, sealedFrameBytes: 500 },
};

it('is bound by the cores until the thread of the connections is, or the link', () => {
  expect(predict(known, { cores: 2, linkGbps: 100, efficiency: 1 })).toEqual({ mbps: 1000, boundBy: 'cores' });
  expect(predict(known, { cores: 2, linkGbps: 100, efficiency: 0.5 })).toEqual({ mbps: 500, boundBy: 'cores' });
  expect(predict(known, { cores: 8, linkGbps: 100, efficiency: 1 })).toEqual({
    mbps: 2000,
    boundBy: 'connection thread',
  });
  expect(predict(known, { cores: 8, linkGbps: 10, efficiency: 1 })).toEqual({ mbps: 1250, boundBy: 'link in' });
  const growing = { ...known, input: { ...known.input, sealedFrameBytes: 2000 } };
  expect(predict(growing, { cores: 8, linkGbps: 10, efficiency: 1 })).toEqual({ mbps: 625, boundBy: 'link out' });
});
