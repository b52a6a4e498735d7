// Socket.IO with rooms: a join that the others hear of, and messages to everyone else in the room. Its own pings, every ten seconds.

import { Server } from 'socket.io';

const server = new Server(Number(process.argv[2]), { pingInterval: 10_000, pingTimeout: 5_000 });

server.on('connection', (socket) => {
  socket.on('join', (room) => {
    socket.to(room).emit('joined', socket.id);
    socket.join(room);
    socket.data.room = room;
    socket.emit('welcome');
  });
  socket.on('signal', (signal) => socket.to(socket.data.room).emit('signal', signal));
});
