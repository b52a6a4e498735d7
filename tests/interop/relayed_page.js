// What runs in a page of either browser: two peer connections that may use relayed candidates alone send each other a picture.

/**
 * Ends once both have decoded `frames` frames. Self-contained: its source is handed to the browser.
 * @param {{ server: RTCIceServer, frames: number, deadline: number }} options `deadline` in milliseconds
 * @returns {Promise<{ decoded: number[], types: string[], protocols: string[], failure?: string }>} what each decoded, the types of all candidates, and the
 *   transports to the relay of the pairs in use
 */
export async function relayedCall({ server, frames, deadline }) {
  /** @param {number} number */
  const picture = (number) => {
    const canvas = Object.assign(document.createElement('canvas'), { width: 160, height: 120 });
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
    let drawn = 0;
    setInterval(() => {
      drawn += 1;
      pen.fillStyle = `hsl(${(drawn * 7 + number * 180) % 360} 80% 50%)`;
      pen.fillRect(0, 0, canvas.width, canvas.height);
    }, 40);
    return canvas.captureStream(25);
  };
  const errors = /** @type {string[]} */ ([]);
  const connections = [0, 1].map((number) => {
    const connection = new RTCPeerConnection({ iceServers: [server], iceTransportPolicy: 'relay' });
    picture(number).getTracks().forEach((track) => connection.addTrack(track));
    connection.onicecandidateerror = (event) => errors.push(`${event.errorCode} ${event.errorText}`);
    return connection;
  });
  const [one, two] = connections;
  one.onicecandidate = ({ candidate }) => { if (candidate) two.addIceCandidate(candidate); };
  two.onicecandidate = ({ candidate }) => { if (candidate) one.addIceCandidate(candidate); };
  // Not played anywhere, a stream might not be decoded.
  connections.forEach((connection) => {
    connection.ontrack = ({ track }) => {
      const video = Object.assign(document.createElement('video'), { muted: true, autoplay: true, srcObject: new MediaStream([track]) });
      (document.body ?? document.documentElement).append(video);
    };
  });
  await one.setLocalDescription();
  await two.setRemoteDescription(/** @type {RTCSessionDescription} */ (one.localDescription));
  await two.setLocalDescription();
  await one.setRemoteDescription(/** @type {RTCSessionDescription} */ (two.localDescription));

  const end = Date.now() + deadline;
  for (;;) {
    const stats = await Promise.all(connections.map(async (connection) => /** @type {any[]} */ ([...(await connection.getStats()).values()])));
    const decoded = stats.map((entries) => entries.find(({ type, kind }) => type === 'inbound-rtp' && kind === 'video')?.framesDecoded ?? 0);
    const types = [...new Set(stats.flat().filter(({ type }) => type.endsWith('-candidate')).map(({ candidateType }) => candidateType))];
    const used = stats.flatMap((entries) => entries.filter((pair) => pair.type === 'candidate-pair' && pair.nominated && pair.state === 'succeeded')
      .map((pair) => entries.find(({ id }) => id === pair.localCandidateId)?.relayProtocol));
    const seen = { decoded, types, protocols: [...new Set(used)] };
    if (Math.min(...decoded) >= frames) return seen;
    if (Date.now() > end) {
      const states = connections.map(({ iceGatheringState, iceConnectionState, connectionState }) => [iceGatheringState, iceConnectionState, connectionState].join());
      return { ...seen, failure: `not done within ${deadline} ms: ${states.join('; ')}; ${errors.join('; ')}` };
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
