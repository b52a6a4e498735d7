import { coturn } from './coturn.js';

coturn('dtls');
